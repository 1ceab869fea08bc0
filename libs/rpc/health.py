"""``grpc.health.v1`` per service, truthful from start-up to drain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

from grpc_health.v1 import health_pb2

from hedgerow.errors import NotFoundError
from libs.authz.resource import SUITE
from libs.rpc.call import Call
from libs.rpc.service import Access, Audit, Service

NOT_SERVING: int = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING: int = health_pb2.HealthCheckResponse.SERVING
SERVICE_UNKNOWN: int = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """The status of each service of a server; everything starts as NOT_SERVING.

    The empty name stands for the server: it serves when every service does.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._status: dict[str, int] = dict.fromkeys(services, NOT_SERVING)
        self._changed = asyncio.Condition()

    def _of(self, name: str) -> int:
        if name:
            return self._status.get(name, SERVICE_UNKNOWN)
        return SERVING if all(status == SERVING for status in self._status.values()) else NOT_SERVING

    async def set(self, serving: bool, *names: str) -> None:
        """Set the status of the named services, or of all."""
        async with self._changed:
            for name in names or tuple(self._status):
                self._status[name] = SERVING if serving else NOT_SERVING
            self._changed.notify_all()

    async def check(self, request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        """Return a service's status; an unknown name is NOT_FOUND."""
        status = self._of(request.service)
        if status == SERVICE_UNKNOWN:
            raise NotFoundError("there is no service of that name here", fields={"service": "unknown"})
        return health_pb2.HealthCheckResponse(status=status)

    async def watch(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield a service's status at once and at each change."""
        last: int | None = None
        while True:
            async with self._changed:
                while self._of(request.service) == last:
                    await self._changed.wait()
                last = self._of(request.service)
            yield health_pb2.HealthCheckResponse(status=last)


def health_service(health: Health) -> Service:
    """Return the registered health service. Probes of the standard protocol may come without a deadline."""
    access = Access(lambda request: [SUITE], Audit.NONE, deadline_required=False, always_open=True)
    descriptor = health_pb2.DESCRIPTOR.services_by_name["Health"]
    return Service(descriptor, health, area="health", access={method.name: access for method in descriptor.methods})
