"""The two servers that ``bench-core`` compares, each in a process of its own: prints its port, then serves until killed.

``bare`` is ``grpc.aio`` on uvloop with one generic handler that returns its bytes, without TLS. ``chain`` is the same
echo as a registered service behind mutual TLS and the whole chain.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
from pathlib import Path

import grpc
import grpc.aio
import uvloop

from hedgerow.identity import IdentityFolder
from libs.telemetry import configure_logging
from tests.support.authority import Authority, folder
from tests.support.echo import Echo, echo_service
from tests.support.serving import serving

PATH = "/hedgerow.testing.v1.EchoService/Echo"


async def bare() -> None:
    """Serve the bare echo."""

    async def echo(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return raw

    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    handler = grpc.unary_unary_rpc_method_handler(echo)
    name, method = PATH.strip("/").split("/")
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {method: handler}),))
    port = server.add_insecure_port("127.0.0.1:0")  # the peer to measure against, loopback only, holds no data
    await server.start()
    _ready(port)
    await server.wait_for_termination()


async def chained(client_folder: Path, kind: str) -> None:
    """Serve the echo behind the chain; write the client's identity to a folder first."""
    authority = Authority()
    folder(client_folder, authority.user("ana"))
    with tempfile.TemporaryDirectory() as tmp:
        if kind == "tls":
            await _tls_only(authority, Path(tmp))
        async with serving(Path(tmp), [echo_service(Echo())], authority=authority, ratio=0.01) as served:
            _ready(served.server.port)
            await asyncio.Event().wait()


async def _tls_only(authority: Authority, tmp: Path) -> None:
    from libs.rpc.aio_transport import rotating_credentials

    async def echo(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        return raw

    kept: IdentityFolder = folder(tmp / "server", authority.service("ingestion"))
    server = grpc.aio.server(options=(("grpc.so_reuseport", 0),))
    name, method = PATH.strip("/").split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_secure_port("127.0.0.1:0", rotating_credentials(kept))
    await server.start()
    _ready(port)
    await server.wait_for_termination()


def _ready(port: int) -> None:
    print(port, os.getpid(), flush=True)


if __name__ == "__main__":
    configure_logging("bench", level="ERROR")
    with contextlib.suppress(KeyboardInterrupt), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bare() if sys.argv[1] == "bare" else chained(Path(sys.argv[2]), sys.argv[1]))
