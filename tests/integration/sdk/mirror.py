"""Every service of the suite as a mirror: it answers each RPC with an empty message and notes that it was called."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from hedgerow.errors import HedgerowError
from hedgerow.identity import IdentityFolder
from hedgerow.sdk.calls import snake_case
from hedgerow.sdk.context import SERVICES
from libs.authz import Resource
from libs.rpc import Access, Audit, Call, Service
from tests.support.authority import Authority, folder
from tests.support.echo import describe
from tests.support.serving import Served, serving

AREAS = ("ingestion", "features", "training", "models", "inference", "secrets", "governance")


def descriptor(area: str) -> ServiceDescriptor:
    """Return the service of an area; the enrolment port, where nobody has an identity yet, is reached by `login`."""
    module = importlib.import_module(f"hedgerow.{area}.v1.{area}_pb2")
    service: ServiceDescriptor = module.DESCRIPTOR.services_by_name[f"{area.capitalize()}Service"]
    return service


@dataclass
class Mirror:
    """What was called, with which unary requests, and what the next calls fail with, last first.

    `failures` are for all calls, `failures_for` for those that state a purpose.

    A call that states the purpose of a gate waits until that opens. `answers` by RPC stand in for empty messages.
    """

    calls: list[tuple[str, str]] = field(default_factory=list)
    requests: list[Any] = field(default_factory=list)
    failures: list[HedgerowError] = field(default_factory=list)
    failures_for: dict[str, list[HedgerowError]] = field(default_factory=dict)
    delay: float = 0.0
    gates: dict[str, asyncio.Event] = field(default_factory=dict)
    answers: dict[str, list[Any]] = field(default_factory=dict)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def note(self, method: MethodDescriptor, call: Call) -> None:
        """Note a call, wait, and fail where a failure is due."""
        self.calls.append((method.full_name, call.purpose))
        try:
            await asyncio.sleep(self.delay)
            if call.purpose in self.gates:
                await self.gates[call.purpose].wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        failures = self.failures_for.get(call.purpose, self.failures)
        if failures:
            raise failures.pop()

    def servicer(self, service: ServiceDescriptor) -> object:
        """Return handlers for all RPCs of a service."""
        handlers = {snake_case(method.name): self._handler(method) for method in service.methods}
        return type("Servicer", (), {name: staticmethod(handler) for name, handler in handlers.items()})()

    def _handler(self, method: MethodDescriptor) -> Any:
        answer = message_factory.GetMessageClass(method.output_type)

        async def unary(request: Any, call: Call) -> Any:
            self.requests.append(request)
            await self.note(method, call)
            return self.answers.get(method.name, [answer()])[0]

        async def down(request: Any, call: Call) -> AsyncIterator[Any]:
            await self.note(method, call)
            for message in self.answers.get(method.name, [answer()] * 3):
                yield message

        async def up(requests: AsyncIterator[Any], call: Call) -> Any:
            sent = [request async for request in requests]
            await self.note(method, call)
            assert len(sent) == 3 or method.name in self.answers
            return self.answers.get(method.name, [answer()])[0]

        return up if method.client_streaming else down if method.server_streaming else unary

    def service(self, area: str) -> Service:
        """Return the registered service; it borrows the action `ingestion.GetDataset` of the real schema."""
        service = descriptor(area)
        dataset = [Resource("Dataset", "datasets/echo")]
        access = {method.name: Access(lambda request: dataset, Audit.NONE) for method in service.methods}
        made = Service(service, self.servicer(service), area=area, access=access, describe=describe)
        made.methods = [replace(method, action="ingestion.GetDataset") for method in made.methods]
        return made


@dataclass
class Suite:
    """A server for each service, and Ana's identity."""

    mirror: Mirror
    servers: Mapping[str, Served]
    authority: Authority
    identity: IdentityFolder

    @property
    def addresses(self) -> dict[str, str]:
        """Where each service is."""
        return {service: served.target for service, served in self.servers.items()}


@contextlib.asynccontextmanager
async def mirrored(tmp: Path) -> AsyncIterator[Suite]:
    """Serve the mirror of every service until the block ends."""
    authority, mirror, servers = Authority(), Mirror(), {}
    async with contextlib.AsyncExitStack() as stack:
        for name in SERVICES:
            areas = ("training", "models") if name == "training" else (name,)
            services = [mirror.service(area) for area in areas]
            servers[name] = await stack.enter_async_context(
                serving(tmp / name, services, name=name, authority=authority)
            )
        yield Suite(mirror, servers, authority, folder(tmp / "ana", authority.user("ana")))
