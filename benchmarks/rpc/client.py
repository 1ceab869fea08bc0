"""A load generator on the same parts as the lane: libnghttp2 as a client, uvloop, OpenSSL.

Every call has a body and a request id of its own, and every answer is compared with what was sent.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import cast

from ngh2 import Configuration, Connection, Role, events
from ngh2.enums import Setting

WINDOW = 16 * 1024 * 1024
BODIES = 256


def bodies(size: int) -> list[bytes]:
    """Return distinct ``BytesValue`` messages of about a size, each with its gRPC prefix."""
    made = []
    for _ in range(BODIES if size < 10_000 else 8):
        rest, length = size, bytearray()
        while rest > 127:
            length.append((rest & 127) | 128)
            rest >>= 7
        value = b"\x0a" + bytes([*length, rest]) + os.urandom(size)
        made.append(struct.pack(">BI", 0, len(value)) + value)
    return made


@dataclass
class Load:
    """What to send and what came of it.

    Attributes:
        path: of the RPC.
        sent: bodies to go through.
        messages: of each call's stream; 1 for unary.
        fixed: one body and one set of headers all the time, to see what variety costs.
        calls: that ended well.
        seconds: of each of them.
    """

    path: str
    sent: list[bytes]
    messages: int = 1
    fixed: bool = False
    running: bool = True
    calls: int = 0
    seconds: list[float] = field(default_factory=list)
    failures: int = 0


class LoadConnection(asyncio.Protocol):
    """One connection that keeps a number of calls going."""

    def __init__(self, load: Load, streams: int) -> None:
        self._load = load
        self._streams = streams
        self._session = Connection(Role.CLIENT, Configuration())
        self._open: dict[int, tuple[float, bytes, list[bytes]]] = {}
        self._bodies = itertools.cycle(load.sent)
        self._numbers = itertools.count()
        self._writable = True
        self.idle = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._session.initiate_connection({Setting.INITIAL_WINDOW_SIZE: WINDOW})
        self._session.set_local_window_size(WINDOW)
        for _ in range(self._streams):
            self._call()
        self._flush()

    def _call(self) -> None:
        load, number = self._load, 0 if self._load.fixed else next(self._numbers)
        headers = [
            (b":method", b"POST"), (b":scheme", b"https"), (b":path", load.path.encode()), (b":authority", b"ingestion"),
            (b"content-type", b"application/grpc"), (b"te", b"trailers"), (b"grpc-timeout", b"%dm" % (9000 + number % 500)),
            (b"hedgerow-request-id", b"%032x" % number), (b"user-agent", b"hedgerow-bench"),
        ]  # fmt: skip
        stream = self._session.send_request(headers)
        body = (load.sent[0] if load.fixed else next(self._bodies)) * load.messages
        self._session.send_data(stream, body, end_stream=True)
        self._open[stream] = (time.perf_counter(), body, [])

    def data_received(self, data: bytes) -> None:
        """Take answers, and make the next calls."""
        self._session.receive_data(data)
        for event in self._session.events():
            if isinstance(event, events.DataReceived):
                self._open[event.stream_id][2].append(event.data)
            elif isinstance(event, events.StreamClosed):
                self._ended(event.stream_id)
        self._flush()

    def _ended(self, stream: int) -> None:
        begun, body, answer = self._open.pop(stream)
        if b"".join(answer) == body:
            self._load.calls += 1
            self._load.seconds.append(time.perf_counter() - begun)
        else:
            self._load.failures += 1
        if self._load.running:
            self._call()
        elif not self._open:
            self.idle.set()

    def _flush(self) -> None:
        while self._writable and (data := self._session.data_to_send(256 * 1024)):
            self._transport.write(data)

    def pause_writing(self) -> None:
        """Wait."""
        self._writable = False

    def resume_writing(self) -> None:
        """Go on."""
        self._writable = True
        self._flush()

    def close(self) -> None:
        """Go."""
        self._transport.close()


async def connect(port: int, context: ssl.SSLContext | None, load: Load, streams: int) -> LoadConnection:
    """Open a connection that starts at once."""
    name = "ingestion.hedgerow.local" if context else None
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(
        lambda: LoadConnection(load, streams), "127.0.0.1", port, ssl=context, server_hostname=name
    )
    return connection
