"""One port of the lane: listens, bounds its connections, keeps their time, drains and closes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from hedgerow.identity import IdentityFolder
from libs.rpc.chain import Chain
from libs.rpc.lane.limits import Limits
from libs.rpc.lane.secure import THREADS, Certificates, SecureWire, step_back
from libs.rpc.lane.shared import Lane
from libs.rpc.service import Service

BACKLOG = 512
TICK_SECONDS = 1.0
LEAVE_SECONDS = 1.0
ROOM = 256 * 1024
LIMITS = Limits()


class LanePort:
    """A listening port with every method of the given services.

    Attributes:
        lane: what its connections share.
        room: where the connections put what they have decrypted, each until it has read it.
    """

    lane: Lane

    def __init__(
        self,
        chain: Chain,
        services: Sequence[Service],
        folder: IdentityFolder,
        listen: str,
        *,
        limits: Limits | None = None,
        shared: bool = False,
    ) -> None:
        """Prepare the port.

        Args:
            chain: the links before each handler.
            services: what to serve.
            folder: the server's identity, followed at each handshake.
            listen: ``host:port``; port 0 picks a free one.
            limits: what peers get at most; by default what stands in ``limits.py``.
            shared: whether several processes listen on this very port and share its connections.
        """
        self._chain = chain
        self._methods = {method.path.encode(): method for service in services for method in service.methods}
        self._certificates = Certificates(folder)
        self._listen = listen
        self._limits = limits or LIMITS
        self._shared = shared
        self.inbox, self.room = memoryview(bytearray(ROOM)), memoryview(bytearray(ROOM))
        self._pool = ThreadPoolExecutor(THREADS, "handshake", initializer=step_back)
        self._handshakes: dict[SecureWire, float] = {}  # by age, oldest first
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def start(self) -> int:
        """Open the port and return its number.

        Raises:
            OSError: it cannot be bound.
        """
        loop = asyncio.get_running_loop()
        self.lane = Lane(self._chain, self._methods, self._limits, loop)
        host, _, port = self._listen.rpartition(":")

        def wire() -> SecureWire:
            return SecureWire(self, self._certificates, self._pool)

        self._server = await loop.create_server(
            wire, host.strip("[]"), int(port), backlog=BACKLOG, reuse_port=self._shared
        )
        self._timer = loop.call_later(TICK_SECONDS, self._tick)
        return int(self._server.sockets[0].getsockname()[1])

    # ---- what its wires ask

    def admit(self, wire: SecureWire) -> None:
        """Let a wire begin its handshake, in place of the oldest that has not ended when there are too many."""
        self._handshakes[wire] = time.monotonic()
        if len(self._handshakes) > self._limits.handshakes:
            oldest = next(iter(self._handshakes))
            del self._handshakes[oldest]
            oldest.abort()

    def accept(self, wire: SecureWire) -> bool:
        """Say whether a wire whose handshake is done may become a connection."""
        self._handshakes.pop(wire, None)
        return len(self.lane.connections) < self._limits.connections

    def forget(self, wire: SecureWire) -> None:
        """Take note that a wire is gone."""
        self._handshakes.pop(wire, None)

    def _tick(self) -> None:
        now = time.monotonic()
        self._timer = self.lane.loop.call_later(TICK_SECONDS, self._tick)
        late = [w for w, begun in self._handshakes.items() if now - begun > self._limits.handshake_seconds]
        for wire in late:
            wire.abort()
        for connection in list(self.lane.connections):
            connection.tick(now)

    # ---- the end

    def drain(self) -> None:
        """Ask the peers to go elsewhere; calls in progress go on.

        Who comes anew is told by the chain that this server goes, unless another process takes the connection.
        """
        if self._shared:
            self._close_listener()
        for connection in list(self.lane.connections):
            connection.drain()

    async def stop(self) -> None:
        """Close every connection; answers have a moment to leave, and what is still in progress is cancelled."""
        self._close_listener()
        if self._timer is not None:
            self._timer.cancel()
        for wire in list(self._handshakes):
            wire.abort()
        end = time.monotonic() + LEAVE_SECONDS
        # Peers take their answers at their own pace; there is no one event to wait for.
        while time.monotonic() < end and any(c.answering for c in self.lane.connections):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        for connection in list(self.lane.connections):
            connection.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._chain.wait_idle()
        self.lane.stand_by.close()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _close_listener(self) -> None:
        if self._server is not None:
            self._server.close()
