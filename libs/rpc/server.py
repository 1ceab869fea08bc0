"""A server: registered services on a port, ready when told, drained on shutdown.

Shutdown does not lean on ``grpc.aio.Server.stop(grace)``, which cuts off calls that end by abort: the server first says
NOT_SERVING, gives watchers of its health time to turn away, refuses new calls, and waits for the calls in progress.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Literal, Protocol

from hedgerow.errors import UnavailableError
from hedgerow.identity import IdentityFolder
from libs.rpc.aio_transport import build_server, rotating_credentials
from libs.rpc.chain import Chain
from libs.rpc.health import Health, health_service
from libs.rpc.reflection import reflection_service
from libs.rpc.service import Service
from libs.telemetry import get_logger

log = get_logger()


Transport = Literal["aio", "lane"]


class Port(Protocol):
    """A listening port of a transport."""

    async def start(self) -> int:
        """Open it and return its number; raise RuntimeError or OSError when it cannot be bound."""

    def drain(self) -> None:
        """Turn peers away that have somewhere else to go."""

    async def stop(self) -> None:
        """Close it."""


class _AioPort:
    """The port of ``grpc.aio``, whose clients learn of a drain from health and from the refusals of the chain."""

    def __init__(
        self, chain: Chain, services: Sequence[Service], folder: IdentityFolder, listen: str, shared: bool
    ) -> None:
        self._server = build_server(chain, services, shared=shared)
        self._listen = listen
        self._credentials = rotating_credentials(folder)

    async def start(self) -> int:
        port: int = self._server.add_secure_port(self._listen, self._credentials)
        await self._server.start()
        return port

    def drain(self) -> None:
        """Nothing more to say."""

    async def stop(self) -> None:
        await self._server.stop(0.1)


def _port(
    transport: Transport, chain: Chain, services: Sequence[Service], folder: IdentityFolder, listen: str, shared: bool
) -> Port:
    if transport == "aio":
        return _AioPort(chain, services, folder, listen, shared)
    from libs.rpc.lane import LanePort  # whoever does not choose it needs none of its parts

    return LanePort(chain, services, folder, listen, shared=shared)


class Server:
    """Secured ports with health and reflection beside the given services.

    Attributes:
        port: number of the port, once open.
        lane_port: number of the second port, once open.
    """

    def __init__(
        self,
        chain: Chain,
        services: Sequence[Service],
        folder: IdentityFolder,
        listen: str,
        *,
        transport: Transport = "aio",
        lane_listen: str = "",
        shared: bool = False,
    ) -> None:
        """Prepare the server.

        Args:
            chain: the links before each handler.
            services: what to serve.
            folder: the server's identity, followed at each handshake.
            listen: ``host:port``; port 0 picks a free one.
            transport: what carries the calls of that port.
            lane_listen: ``host:port`` of a second port with the same services on the fast lane, or none.
            shared: whether several processes listen on the same ports.
        """
        names = [service.name for service in services]
        self.health = Health(names)
        self._chain = chain
        everything = [*services, health_service(self.health), reflection_service([*names, "grpc.health.v1.Health"])]
        self._ports = [(listen, _port(transport, chain, everything, folder, listen, shared))]
        if lane_listen:
            self._ports.append((lane_listen, _port("lane", chain, everything, folder, lane_listen, shared)))
        self.port = self.lane_port = 0

    async def start(self) -> None:
        """Open the ports; every service is NOT_SERVING until ``health.set`` says otherwise.

        Raises:
            UnavailableError: a port cannot be bound.
        """
        numbers = []
        for listen, port in self._ports:
            try:
                numbers.append(await port.start())
            except (RuntimeError, OSError) as error:
                raise UnavailableError(
                    f"{listen} cannot be bound; is the port taken?", metadata={"listen": listen}
                ) from error
            log.info("listening", listen=listen, port=numbers[-1])
        self.port, self.lane_port = numbers[0], numbers[-1] if len(numbers) > 1 else 0

    async def stop(self, *, notice: float, grace: float) -> None:
        """Drain and close.

        Args:
            notice: seconds between saying NOT_SERVING and refusing new calls.
            grace: seconds that calls in progress may take after that; then they are cancelled.
        """
        await self.health.set(False)
        await asyncio.sleep(notice)
        self._chain.drain()
        for _, port in self._ports:
            port.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._chain.wait_idle()
        for _, port in self._ports:
            await port.stop()
        log.info("stopped")
