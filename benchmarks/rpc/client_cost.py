"""What a call costs a Python client: ``grpc.aio`` and the SDK against a client of the lane's parts (var/bench/client.json).

The clients make the same unary calls of 160 bytes over mutual TLS to the same server, the fast lane behind the whole
chain, each in a process of its own, in turns. What counts is calls per second of the client's CPU time.
"""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import grpc
import grpc.aio
import uvloop
from google.protobuf.wrappers_pb2 import BytesValue
from ngh2 import Configuration, Connection, Role, events
from ngh2.enums import Setting

from benchmarks.rpc.server import ECHO
from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.identity import IdentityFolder
from tests.support.echo import DESCRIPTOR
from tests.support.h2_peer import client_context

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "var" / "bench" / "client.json"
NAME = "ingestion.hedgerow.local"
BODY = BytesValue(value=os.urandom(160))
SECONDS, WARM_UP, ROUNDS = 2.0, 0.5, 3
CALLERS = (1, 16)
TIMEOUT = 5.0
Call = Callable[[], Awaitable[object]]


class PrototypeClient(asyncio.Protocol):
    """One connection: libnghttp2 under asyncio and its TLS; enough of a client to tell what a whole one would cost."""

    def __init__(self) -> None:
        self._session = Connection(Role.CLIENT, Configuration())
        self._calls: dict[int, tuple[asyncio.Future[bytes], list[bytes], dict[bytes, bytes]]] = {}
        self._loop = asyncio.get_running_loop()
        self._scheduled = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say hello."""
        self._transport = cast(asyncio.Transport, transport)
        self._session.initiate_connection({Setting.ENABLE_PUSH: 0})
        self._flush()

    async def unary(self, path: bytes, message: bytes, timeout: float) -> bytes:
        """Return the answer to one request.

        Raises:
            RuntimeError: it ended with another status than OK.
        """
        headers = [
            (b":method", b"POST"), (b":scheme", b"https"), (b":path", path), (b":authority", NAME.encode()),
            (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"%dm" % (timeout * 1000)),
            (b"hedgerow-request-id", os.urandom(16).hex().encode()), (b"user-agent", b"hedgerow-python"),
        ]  # fmt: skip
        stream = self._session.send_request(headers)
        self._session.send_data(stream, struct.pack(">BI", 0, len(message)) + message, end_stream=True)
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._calls[stream] = (future, [], {})
        timer = self._loop.call_later(timeout, future.cancel)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)
        try:
            return await future
        finally:
            timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        self._session.receive_data(data)
        for event in self._session.events():
            if isinstance(event, events.DataReceived):
                self._calls[event.stream_id][1].append(event.data)
            elif isinstance(event, events.TrailersReceived | events.ResponseReceived):
                self._calls[event.stream_id][2].update(event.headers)
            elif isinstance(event, events.StreamClosed):
                self._ended(event.stream_id)
        self._flush()

    def _ended(self, stream: int) -> None:
        future, parts, fields = self._calls.pop(stream)
        if future.done():
            return
        if (status := fields.get(b"grpc-status")) != b"0":
            future.set_exception(RuntimeError(f"status {status!r}"))
        else:
            future.set_result(b"".join(parts)[5:])

    def _flush(self) -> None:
        self._scheduled = False
        while data := self._session.data_to_send(256 * 1024):
            self._transport.write(data)

    def close(self) -> None:
        """Go."""
        self._transport.close()


@asynccontextmanager
async def grpcio(port: int, kept: IdentityFolder) -> AsyncIterator[Call]:
    """A bare ``grpc.aio`` channel."""
    identity = kept.current()
    assert identity is not None
    credentials = grpc.ssl_channel_credentials(identity.roots_pem, identity.key_pem, identity.chain_pem)
    options = [("grpc.ssl_target_name_override", NAME)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        echo = channel.unary_unary(ECHO, BytesValue.SerializeToString, BytesValue.FromString)
        yield lambda: echo(BODY, timeout=TIMEOUT)


@asynccontextmanager
async def sdk(port: int, kept: IdentityFolder) -> AsyncIterator[Call]:
    """The client of the SDK, with its request ids, retries and rotation."""
    channel = RotatingChannel(f"127.0.0.1:{port}", NAME, kept)
    client = ServiceClient(channel, DESCRIPTOR)
    yield lambda: client.call("Echo", BODY, timeout=TIMEOUT)
    await channel.close()


@asynccontextmanager
async def prototype(port: int, kept: IdentityFolder) -> AsyncIterator[Call]:
    """The client of this file, with a request id for each call."""
    context: ssl.SSLContext = client_context(kept.folder)
    loop = asyncio.get_running_loop()
    _, client = await loop.create_connection(PrototypeClient, "127.0.0.1", port, ssl=context, server_hostname=NAME)

    async def call() -> object:
        return BytesValue.FromString(await client.unary(ECHO.encode(), BODY.SerializeToString(), TIMEOUT))

    yield call
    client.close()


CLIENTS: dict[str, Callable[[int, IdentityFolder], Any]] = {"grpcio": grpcio, "sdk": sdk, "prototype": prototype}


async def one(name: str, callers: int, port: int, kept: IdentityFolder) -> None:
    """Be one client: call for the time, and print calls and CPU seconds."""
    async with CLIENTS[name](port, kept) as call:
        assert await call() == BODY
        counted, end = 0, 0.0

        async def caller() -> None:
            nonlocal counted
            while time.perf_counter() < end:
                await call()
                counted += 1

        for seconds in (WARM_UP, SECONDS):
            counted, end, cpu = 0, time.perf_counter() + seconds, time.process_time()
            await asyncio.gather(*(caller() for _ in range(callers)))
            spent = time.process_time() - cpu
    print(json.dumps({"calls": counted, "cpu_seconds": spent}))


def measured(name: str, loop: str, callers: int, port: str, folder: Path) -> float:
    """Return the calls per client CPU second of one window."""
    command = [sys.executable, "-m", "benchmarks.rpc.client_cost", name, loop, str(callers), port, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return float(found["calls"] / found["cpu_seconds"])


def compare() -> dict[str, Any]:
    """Return the medians of all clients on both loops."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp) / "ana"
        command = [sys.executable, "-m", "benchmarks.rpc.server", "lane", "chain", str(folder)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout is not None
                port = server.stdout.readline().split()[0]
                for _ in range(ROUNDS):
                    for callers in CALLERS:
                        for loop in ("asyncio", "uvloop"):
                            for name in CLIENTS:
                                key = f"{name}_{loop}_c{callers}"
                                rates.setdefault(key, []).append(measured(name, loop, callers, port, folder))
            finally:
                server.kill()
    medians = {key: round(statistics.median(values)) for key, values in rates.items()}
    ratios = {
        f"prototype_over_sdk_{loop}_c{callers}": round(
            medians[f"prototype_{loop}_c{callers}"] / medians[f"sdk_{loop}_c{callers}"], 2
        )
        for loop in ("asyncio", "uvloop")
        for callers in CALLERS
    }
    return {
        "unit": "unary calls of 160 bytes over mutual TLS per second of the client's CPU",
        "rounds": ROUNDS,
        "calls_per_client_cpu_second": medians,
        "each": {key: [round(value) for value in values] for key, values in rates.items()},
        "ratios": ratios,
    }


def main() -> None:
    """Measure all, or be one client."""
    if len(sys.argv) > 1:
        name, loop, callers, port, folder = sys.argv[1:]
        factory = uvloop.new_event_loop if loop == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(one(name, int(callers), int(port), IdentityFolder(Path(folder))))
        return
    result = compare()
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: result[key] for key in ("calls_per_client_cpu_second", "ratios")}, indent=1))


if __name__ == "__main__":
    main()
