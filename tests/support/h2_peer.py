"""A peer that speaks HTTP/2 frame by frame over mutual TLS, so that it can also speak it wrongly. Blocking; for threads."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import hpack

DATA, HEADERS, PRIORITY, RST, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
PRIORITY_UPDATE = 16
END_STREAM, ACK, END_HEADERS = 1, 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
ECHO = "/hedgerow.testing.v1.EchoService/Echo"
BOTH = "/hedgerow.testing.v1.EchoService/Both"
UP = "/hedgerow.testing.v1.EchoService/Up"
SLEEP = "/hedgerow.testing.v1.EchoService/Sleep"
OVER = -1
"""Type of the frame that stands for the end of the connection."""


class Frame(NamedTuple):
    """A frame as it came."""

    type: int
    flags: int
    stream: int
    payload: bytes


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def setting(name: int, value: int) -> bytes:
    """Return one entry of a SETTINGS frame."""
    return struct.pack(">HI", name, value)


def message(body: bytes) -> bytes:
    """Return a gRPC message."""
    return struct.pack(">BI", 0, len(body)) + body


def client_context(folder: Path) -> ssl.SSLContext:
    """Return the TLS context of the identity in a folder."""
    context = ssl.create_default_context(cafile=str(folder / "roots.pem"))
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(folder / "identity.pem")
    return context


class H2Peer:
    """One connection."""

    def __init__(self, port: int, context: ssl.SSLContext, settings: bytes = b"", *, hello: bool = True) -> None:
        raw = socket.create_connection(("127.0.0.1", port), timeout=5)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else each small frame waits for a delayed ACK
        self.socket = context.wrap_socket(raw, server_hostname="ingestion.hedgerow.local")
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self._buffer = b""
        self.windows: dict[int, int] = {0: 65_535}
        if hello:
            self.send(PREFACE + frame(SETTINGS, 0, 0, settings))

    def __enter__(self) -> H2Peer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def headers(
        self,
        stream: int,
        extra: Sequence[tuple[str, str]] = (),
        *,
        flags: int = END_HEADERS,
        path: str = ECHO,
        timeout: str = "5S",
        without: Sequence[str] = (),
    ) -> bytes:
        """Return a HEADERS frame of a call."""
        fields = [
            (":method", "POST"), (":scheme", "https"), (":path", path), (":authority", "ingestion.hedgerow.local"),
            ("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", timeout),
        ]  # fmt: skip
        kept = [(name, value) for name, value in fields if name not in without]
        return frame(HEADERS, flags, stream, self.encoder.encode([*kept, *extra]))

    def call(self, stream: int, body: bytes = b"", **options: object) -> bytes:
        """Return the frames of a whole unary call."""
        return self.headers(stream, **options) + frame(DATA, END_STREAM, stream, message(body))  # type: ignore[arg-type]

    def send(self, data: bytes) -> bool:
        """Send, and return whether the connection took it."""
        try:
            self.socket.sendall(data)
        except OSError:
            return False
        return True

    def upload(self, stream: int, body: bytes, headers: bytes, *, end: bool = True) -> list[Frame]:
        """Send a request as fast as the windows allow; return the frames that came meanwhile.

        It stops when the stream or the connection ends, or no window opens for a second.
        """
        seen: list[Frame] = []
        self.send(headers)
        at = 0
        self.windows.setdefault(stream, 65_535)
        while at < len(body):
            size = min(16_384, len(body) - at, self.windows[stream], self.windows[0])
            if size > 0:
                last = end and at + size == len(body)
                if not self.send(frame(DATA, END_STREAM if last else 0, stream, body[at : at + size])):
                    return [*seen, Frame(OVER, 0, 0, b"")]
                at += size
                self.windows[stream] -= size
                self.windows[0] -= size
                continue
            more = self.frames(lambda one: one.type in (WINDOW, OVER) or one.stream == stream, seconds=1)
            seen += more
            if not more or more[-1].type != WINDOW:
                return seen
        return seen

    def frames(self, until: Callable[[Frame], bool] = lambda frame: False, seconds: float = 3.0) -> list[Frame]:
        """Return the frames that come until one satisfies ``until``, the connection ends or the time is up."""
        end, seen = time.monotonic() + seconds, []
        while True:
            while len(self._buffer) >= 9 and len(self._buffer) >= 9 + (size := int.from_bytes(self._buffer[:3], "big")):
                stream = int.from_bytes(self._buffer[5:9], "big")
                one = Frame(self._buffer[3], self._buffer[4], stream, self._buffer[9 : 9 + size])
                self._buffer = self._buffer[9 + size :]
                seen.append(one)
                if one.type == WINDOW:
                    more = int.from_bytes(one.payload, "big")
                    self.windows[one.stream] = self.windows.get(one.stream, 65_535) + more
                if until(one):
                    return seen
            left = end - time.monotonic()
            if left <= 0:
                return seen
            self.socket.settimeout(left)
            try:
                data = self.socket.recv(65536)
            except TimeoutError:
                return seen
            except OSError:
                data = b""
            if not data:
                return [*seen, Frame(OVER, 0, 0, b"")]
            self._buffer += data

    def statuses(self, frames: Sequence[Frame]) -> dict[int, str]:
        """Return the ``grpc-status`` of each stream, or what HTTP says instead; each header block is decoded once."""
        found: dict[int, str] = {}
        for one in frames:
            if one.type == HEADERS:
                fields = {str(name): str(value) for name, value in self.decoder.decode(one.payload)}
                http = fields.get(":status", "200")
                found[one.stream] = fields.get("grpc-status", "" if http == "200" else http)
        return found

    def status(self, frames: Sequence[Frame], stream: int) -> str:
        """Return the status of one stream, or nothing."""
        return self.statuses(frames).get(stream, "")


def ended(stream: int) -> Callable[[Frame], bool]:
    """Return what is true of the frame that ends a stream."""
    return lambda one: one.type == HEADERS and one.stream == stream and bool(one.flags & END_STREAM)


def goaway(frames: Sequence[Frame]) -> int | None:
    """Return the error code of a GOAWAY, or None."""
    codes = [int.from_bytes(one.payload[4:8], "big") for one in frames if one.type == GOAWAY]
    return codes[0] if codes else None


def resets(frames: Sequence[Frame]) -> dict[int, int]:
    """Return the error codes of RST_STREAM frames by stream."""
    return {one.stream: int.from_bytes(one.payload, "big") for one in frames if one.type == RST}
