"""The servers that ``bench-rpc`` compares, each in a process of its own: prints port and pid, then serves until killed.

Usage: ``python -m benchmarks.rpc.server TRANSPORT KIND FOLDER [PORT]``. Transports: ``aio``, ``lane``. Kinds: ``plain``
is an echo of bytes on the bare transport without TLS, ``tls`` the same over mutual TLS, ``chain`` a registered echo over
mutual TLS behind the whole chain. SIGUSR1 makes it print how many calls it has answered. Given a port, processes share
it. The client's identity is left in the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import uvloop

from hedgerow.identity import IdentityFolder
from libs.rpc.aio_transport import rotating_credentials
from libs.rpc.chain import Chain
from libs.rpc.lane import LanePort, Limits
from libs.rpc.lane.connection import Connection
from libs.rpc.lane.shared import Lane
from libs.rpc.service import Method
from libs.telemetry import configure_logging
from tests.support.authority import Authority, folder
from tests.support.echo import Echo, echo_service
from tests.support.serving import serving

ECHO = "/hedgerow.testing.v1.EchoService/Echo"
BOTH = "/hedgerow.testing.v1.EchoService/Both"


class Answered:
    """Counts the calls, or messages of streams, that a handler has answered."""

    count = 0


class BareChain:
    """No links: bytes in, the same bytes out."""

    async def unary(self, method: Method, raw: bytes, transport: Any) -> bytes:
        """Return the request."""
        Answered.count += 1
        return raw

    async def stream(self, method: Method, raws: AsyncIterator[bytes], transport: Any) -> AsyncIterator[bytes]:
        """Return each message."""
        async for raw in raws:
            Answered.count += 1
            yield raw

    def shed(self) -> None:
        """Count nothing."""

    async def wait_idle(self) -> None:
        """Return at once."""


class PlainWire(asyncio.Protocol):
    """A wire without TLS, which the lane itself does not have: to measure what TLS costs, on loopback, without data."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin at once."""
        self._transport = cast(asyncio.Transport, transport)
        self.write, self.close, self.abort = self._transport.write, self._transport.close, self._transport.abort
        self._connection = Connection(self._lane, None, self)

    def data_received(self, data: bytes) -> None:
        """Pass on."""
        self._connection.receive(data)

    def pause_writing(self) -> None:
        """Stop."""
        self._transport.pause_reading()
        self._connection.pause()

    def resume_writing(self) -> None:
        """Go on."""
        self._transport.resume_reading()
        self._connection.resume()

    def connection_lost(self, error: Exception | None) -> None:
        """End."""
        self._connection.lost()


def _aio_server() -> grpc.aio.Server:
    async def echo(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        Answered.count += 1
        return raw

    async def both(raws: Any, context: grpc.aio.ServicerContext) -> None:
        while (raw := await context.read()) is not grpc.aio.EOF:
            Answered.count += 1
            await context.write(raw)

    server = grpc.aio.server(
        options=(
            ("grpc.so_reuseport", 1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_send_message_length", -1),
        )
    )
    name = ECHO.strip("/").split("/", 1)[0]
    handlers = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    return server


def _ready(port: int) -> None:
    gc.collect()
    gc.freeze()
    print(port, os.getpid(), flush=True)


async def bare(transport: str, kind: str, kept: IdentityFolder, port: int) -> None:
    """Serve the echo of bytes."""
    listen = f"127.0.0.1:{port}"
    if transport == "aio":
        server = _aio_server()
        if kind == "tls":
            bound = server.add_secure_port(listen, rotating_credentials(kept))
        else:
            bound = server.add_insecure_port(listen)  # the peer to measure against, loopback only, holds no data
        await server.start()
        _ready(bound)
    elif kind == "tls":
        lane_port = LanePort(cast(Chain, BareChain()), [echo_service(Echo())], kept, listen, shared=bool(port))
        _ready(await lane_port.start())
    else:
        loop = asyncio.get_running_loop()
        methods = {method.path.encode(): method for method in echo_service(Echo()).methods}
        lane = Lane(cast(Chain, BareChain()), methods, Limits(), loop)
        listener = await loop.create_server(lambda: PlainWire(lane), "127.0.0.1", port, reuse_port=bool(port))
        _ready(listener.sockets[0].getsockname()[1])
    await asyncio.Event().wait()


class CountingEcho(Echo):
    """Counts, for the check of the counters."""

    async def echo(self, request: Any, call: Any) -> Any:
        """Answer at once."""
        Answered.count += 1
        return request


async def chained(transport: str, authority: Authority, tmp: Path) -> None:
    """Serve the registered echo behind the chain."""
    services = [echo_service(CountingEcho())]
    async with serving(tmp, services, authority=authority, ratio=0.01, transport=transport) as served:
        served.audit.events = _Forgetful()
        _ready(served.server.port)
        await asyncio.Event().wait()


class _Forgetful(list):  # type: ignore[type-arg]
    """Keeps the recording writer of tests from growing."""

    def append(self, event: object) -> None:
        """Drop it."""


async def main() -> None:
    """Serve what the arguments say."""
    transport, kind, client, port = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int((sys.argv[4:] or ["0"])[0])
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: print(Answered.count, flush=True))
    with tempfile.TemporaryDirectory() as tmp:
        authority = Authority()
        folder(client, authority.user("ana"))
        if kind == "chain":
            await chained(transport, authority, Path(tmp))
        else:
            await bare(transport, kind, folder(Path(tmp), authority.service("ingestion")), port)


if __name__ == "__main__":
    configure_logging("bench", level="ERROR")
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
