"""How the services do, asked as the operator over mutual TLS (``grpc.health.v1``)."""

from __future__ import annotations

import asyncio
import datetime as dt
from pathlib import Path

from grpc_health.v1 import health_pb2

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient, enrol
from hedgerow.errors import HedgerowError
from hedgerow.identity import Identity, IdentityFolder
from hedgerow.secrets.v1 import secrets_pb2
from suite.config import SuiteConfig, service_of

OPERATOR = "operator"
CHECK_SECONDS = 2.0
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"]
_LOGIN = secrets_pb2.DESCRIPTOR.services_by_name["EnrolmentService"].methods_by_name["Login"]
_STATUS = health_pb2.HealthCheckResponse.ServingStatus


class OperatorHealth:
    """Checks services with an identity of its own, which it gets with the operator's password and renews by it."""

    def __init__(self, config: SuiteConfig, folder: Path) -> None:
        self._config = config
        self._folder = IdentityFolder(folder)
        self._channels: dict[str, RotatingChannel] = {}
        self._login = asyncio.Lock()

    async def check(self, instance: str) -> str:
        """Return ``SERVING``, ``NOT_SERVING``, or in one word why nobody can tell; never raises."""
        if not await _accepts(self._config.port(instance)):
            return "UNREACHABLE"
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await self._ensure_identity()
                answer = await self._client(instance).call(
                    "Check", health_pb2.HealthCheckRequest(), timeout=CHECK_SECONDS, purpose="operations"
                )
        except HedgerowError as error:
            return error.reason
        except TimeoutError:
            return "DEADLINE_EXCEEDED"
        except FileNotFoundError:
            return "NOT_PREPARED"
        return str(_STATUS.Name(answer.status))

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            await channel.close()

    async def _ensure_identity(self) -> None:
        async with self._login:
            identity = self._folder.current()
            if identity is not None and dt.datetime.now(dt.UTC) < identity.renew_time():
                return
            self._folder.save(await self._log_in())

    async def _log_in(self) -> Identity:
        folder = self._config.folder
        return await enrol(
            self._config.address("enrolment"),
            f"secrets.{self._config.trust_domain}",
            (folder / "trust" / "enrolment-ca.pem").read_bytes(),
            _LOGIN,
            timeout=CHECK_SECONDS,
            username=OPERATOR,
            password=(folder / "users" / OPERATOR / "password").read_text(),
        )

    def _client(self, instance: str) -> ServiceClient:
        channel = self._channels.get(instance)
        if channel is None:
            name = f"{service_of(instance)}.{self._config.trust_domain}"
            channel = RotatingChannel(f"127.0.0.1:{self._config.port(instance)}", name, self._folder)
            self._channels[instance] = channel
        return ServiceClient(channel, _HEALTH)


async def _accepts(port: int) -> bool:
    """Whether something accepts connections: gRPC would wait and try again, where a start wants to know at once."""
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
