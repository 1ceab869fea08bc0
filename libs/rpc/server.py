"""A server: registered services on a port, ready when told, drained on shutdown.

Shutdown does not lean on ``grpc.aio.Server.stop(grace)``, which cuts off calls that end by abort: the server first says
NOT_SERVING, gives watchers of its health time to turn away, refuses new calls, and waits for the calls in progress.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from hedgerow.errors import UnavailableError
from hedgerow.identity import IdentityFolder
from libs.rpc.aio_transport import build_server, rotating_credentials
from libs.rpc.chain import Chain
from libs.rpc.health import Health, health_service
from libs.rpc.reflection import reflection_service
from libs.rpc.service import Service
from libs.telemetry import get_logger

log = get_logger()


class Server:
    """One secured port with health and reflection beside the given services."""

    def __init__(self, chain: Chain, services: Sequence[Service], folder: IdentityFolder, listen: str) -> None:
        """Prepare the server.

        Args:
            chain: the links before each handler.
            services: what to serve.
            folder: the server's identity, followed at each handshake.
            listen: ``host:port``; port 0 picks a free one.
        """
        names = [service.name for service in services]
        self.health = Health(names)
        self._chain = chain
        everything = [*services, health_service(self.health), reflection_service([*names, "grpc.health.v1.Health"])]
        self._server = build_server(chain, everything)
        self._listen = listen
        self._credentials = rotating_credentials(folder)
        self.port = 0

    async def start(self) -> None:
        """Open the port; every service is NOT_SERVING until ``health.set`` says otherwise.

        Raises:
            UnavailableError: the port cannot be bound.
        """
        try:
            self.port = self._server.add_secure_port(self._listen, self._credentials)
        except RuntimeError as error:
            raise UnavailableError(
                f"{self._listen} cannot be bound; is the port taken?", metadata={"listen": self._listen}
            ) from error
        await self._server.start()
        log.info("listening", listen=self._listen, port=self.port)

    async def stop(self, *, notice: float, grace: float) -> None:
        """Drain and close.

        Args:
            notice: seconds between saying NOT_SERVING and refusing new calls.
            grace: seconds that calls in progress may take after that; then they are cancelled.
        """
        await self.health.set(False)
        await asyncio.sleep(notice)
        self._chain.drain()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._chain.wait_idle()
        await self._server.stop(0.1)
        log.info("stopped")
