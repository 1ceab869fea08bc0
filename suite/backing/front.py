"""TLS in front of a server that was built without it: the wheels of PostgreSQL and Valkey are.

    python -m suite.backing.front --port N --socket PATH --certificate FILE --key FILE [--postgres] -- COMMAND...

The server runs as a child of this process and listens on a Unix socket alone, in a folder that only its owner may enter,
so that nothing goes over the network in clear. This process takes TLS 1.3 on 127.0.0.1 and passes the bytes on. SIGTERM
ends the server in an orderly way and then this process; the server dies with this process whatever ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import os
import signal
import ssl
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

MAX_CONNECTIONS = 256
HANDSHAKE_SECONDS = 10.0
_CHUNK = 256 * 1024
_PR_SET_PDEATHSIG = 1
# What a client of PostgreSQL sends in clear before it begins TLS: length 8, then this code.
_SSL_REQUEST = struct.pack("!II", 8, 80877103)


@dataclass(frozen=True)
class Front:
    """What to pass on, and where.

    Attributes:
        port: on 127.0.0.1.
        socket: of the server; a relative path is taken from the folder the process runs in.
        context: TLS of the port.
        is_postgres: whether clients ask for TLS as PostgreSQL's do before they begin it.
    """

    port: int
    socket: str
    context: ssl.SSLContext
    is_postgres: bool

    async def serve(self) -> asyncio.Server:
        """Open the port."""
        busy = asyncio.Semaphore(MAX_CONNECTIONS)

        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError):
                if not busy.locked():
                    async with busy:
                        await self._pass_on(reader, writer)
            writer.close()

        tls = None if self.is_postgres else self.context
        return await asyncio.start_server(
            accept, "127.0.0.1", self.port, ssl=tls, ssl_handshake_timeout=HANDSHAKE_SECONDS if tls else None
        )

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_postgres:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                if await reader.readexactly(len(_SSL_REQUEST)) != _SSL_REQUEST:
                    return
                writer.write(b"S")
                await writer.start_tls(self.context, ssl_handshake_timeout=HANDSHAKE_SECONDS)
        server_reader, server_writer = await asyncio.open_unix_connection(self.socket)
        ways = [
            asyncio.create_task(_copy(reader, server_writer)),
            asyncio.create_task(_copy(server_reader, writer)),
        ]
        try:
            # TLS knows no half-open connection: when one side ends, so does the other.
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            server_writer.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while chunk := await source.read(_CHUNK):
            target.write(chunk)
            await target.drain()


async def run(front: Front, command: Sequence[str], stop_signal: signal.Signals) -> int:
    """Run the server behind its port until it ends; return its exit code."""
    child = await asyncio.create_subprocess_exec(*command, preexec_fn=_die_with_parent, start_new_session=True)
    loop = asyncio.get_running_loop()

    def stop() -> None:
        with contextlib.suppress(ProcessLookupError):
            child.send_signal(stop_signal)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        server = await front.serve()
    except OSError as error:
        print(f"127.0.0.1:{front.port} cannot be bound: {error.strerror}", file=sys.stderr)
        stop()
        await child.wait()
        return 1
    code = await child.wait()
    server.close()
    return code


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def command_line(
    *,
    port: int,
    socket: str,
    folder: Path,
    certificate: Path,
    key: Path,
    command: Sequence[str],
    is_postgres: bool = False,
) -> list[str]:
    """Return the command that runs a server behind this front.

    Args:
        folder: where both run, and what ``socket`` is relative to: the path of a Unix socket has 107 bytes at most.
    """
    files = [
        "--certificate",
        str(certificate.resolve()),
        "--key",
        str(key.resolve()),
        "--folder",
        str(folder.resolve()),
    ]
    mark = ["--postgres"] if is_postgres else []
    # By its path, for the environment of the process is bare and names no place to import from.
    return [sys.executable, "-I", __file__, "--port", str(port), "--socket", socket, *files, *mark, "--", *command]


def main(arguments: Sequence[str]) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    for name in ("--socket", "--certificate", "--key", "--folder"):
        parser.add_argument(name, required=True)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args(arguments)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(options.certificate, options.key)
    os.chdir(options.folder)
    # PostgreSQL waits for its clients on SIGTERM, and rolls them back on SIGINT.
    stop_signal = signal.SIGINT if options.postgres else signal.SIGTERM
    front = Front(options.port, options.socket, context, options.postgres)
    return asyncio.run(run(front, options.command, stop_signal))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
