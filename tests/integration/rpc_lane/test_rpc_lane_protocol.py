"""Violations of HTTP/2 and gRPC get the right GOAWAY, RST_STREAM or status, and the others are not harmed."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable

import pytest

from tests.integration.rpc_lane.conftest import Lane
from tests.support.h2_peer import (
    BOTH,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    OVER,
    PING,
    PREFACE,
    PUSH,
    RST,
    SETTINGS,
    SLEEP,
    WINDOW,
    Frame,
    H2Peer,
    ended,
    frame,
    goaway,
    message,
    resets,
    setting,
)

PROTOCOL, FLOW, FRAME_SIZE, COMPRESSION, CALM = 1, 3, 6, 9, 11
OK, INVALID, EXCEEDED, EXHAUSTED, UNIMPLEMENTED = "0", "3", "4", "8", "12"

VIOLATIONS: dict[str, tuple[Callable[[H2Peer], bytes], set[int]]] = {
    "even stream": (lambda p: p.headers(2), {PROTOCOL}),
    "DATA on stream 0": (lambda p: frame(DATA, 0, 0, b"x"), {PROTOCOL}),
    "DATA on an idle stream": (lambda p: frame(DATA, 1, 5, b"x"), {PROTOCOL}),
    "frame too large": (lambda p: frame(DATA, 0, 1, b"x" * 70_000), {FRAME_SIZE}),
    "WINDOW_UPDATE of 0": (lambda p: frame(WINDOW, 0, 0, bytes(4)), {PROTOCOL}),
    "window overflow": (lambda p: frame(WINDOW, 0, 0, b"\x7f\xff\xff\xff"), {FLOW}),
    "SETTINGS of 5 bytes": (lambda p: frame(SETTINGS, 0, 0, b"12345"), {FRAME_SIZE}),
    "bad header block": (lambda p: frame(HEADERS, 5, 1, b"\xff\xff\xff\xff\xff"), {COMPRESSION}),
    "CONTINUATION alone": (lambda p: frame(CONTINUATION, 4, 1), {PROTOCOL}),
    "PUSH_PROMISE": (lambda p: frame(PUSH, 4, 1, b"\0\0\0\2"), {PROTOCOL}),
    "DATA within headers": (lambda p: p.headers(1, flags=0) + frame(DATA, 1, 1, message(b"")), {PROTOCOL}),
    "SETTINGS on a stream": (lambda p: frame(SETTINGS, 0, 1), {PROTOCOL}),
    "RST of an idle stream": (lambda p: frame(RST, 0, 7, bytes(4)), {PROTOCOL}),
}


@pytest.mark.parametrize("name", VIOLATIONS)
async def test_a_violation_ends_its_connection_with_the_right_goaway(lane: Lane, name: str) -> None:
    violation, codes = VIOLATIONS[name]

    def use(peer: H2Peer) -> list[Frame]:
        peer.send(violation(peer))
        return peer.frames(lambda one: one.type == OVER)

    seen = await lane.run(use)
    assert goaway(seen) in codes
    assert seen[-1].type == OVER


@pytest.mark.parametrize("extra", [("X-A", "b"), ("connection", "close"), (":path", "/again")])
async def test_a_bad_header_ends_its_stream_only(lane: Lane, extra: tuple[str, str]) -> None:
    def use(peer: H2Peer) -> tuple[dict[int, int], str]:
        peer.send(peer.headers(1, [extra], flags=END_HEADERS | END_STREAM))
        first = peer.frames(lambda one: one.type in (RST, OVER))
        peer.send(peer.call(3))
        return resets(first), peer.status(peer.frames(ended(3)), 3)

    assert await lane.run(use) == ({1: PROTOCOL}, OK)


async def test_other_protocols_are_not_answered(lane: Lane) -> None:
    def use(peer: H2Peer) -> list[Frame]:
        peer.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return peer.frames(lambda one: one.type == OVER)

    assert goaway(await lane.run(use, hello=False)) == PROTOCOL


class TestGrpc:
    """What is legal HTTP/2 but not a gRPC call."""

    async def one(self, lane: Lane, make: Callable[[H2Peer], bytes], stream: int = 1) -> str:
        def use(peer: H2Peer) -> str:
            peer.send(make(peer))
            seen = peer.frames(ended(stream))
            found = peer.status(seen, stream)
            peer.send(peer.call(101))
            assert peer.status(peer.frames(ended(101)), 101) == OK
            return found

        return str(await lane.run(use))

    async def test_http(self, lane: Lane) -> None:
        assert await self.one(lane, lambda p: p.call(1, without=["content-type"])) == "415"
        json = [("content-type", "application/json")]
        assert await self.one(lane, lambda p: p.call(1, extra=json, without=["content-type"])) == "415"
        get = [(":method", "GET"), (":authority", "x")]
        wrong = lambda p: frame(HEADERS, 5, 1, p.encoder.encode([*get, (":scheme", "https"), (":path", "/x")]))  # noqa: E731
        assert await self.one(lane, wrong) == "405"

    @pytest.mark.parametrize("kind", ["application/grpc+proto", "application/grpc;v=1"])
    async def test_content_types(self, lane: Lane, kind: str) -> None:
        make = lambda p: p.call(1, extra=[("content-type", kind)], without=["content-type"])  # noqa: E731
        assert await self.one(lane, make) == OK

    @pytest.mark.parametrize("timeout", ["", "5", "S", "-1S", "123456789S", "1x", "1 S", "0x1S"])
    async def test_a_bad_timeout(self, lane: Lane, timeout: str) -> None:
        assert await self.one(lane, lambda p: p.call(1, timeout=timeout)) == INVALID

    @pytest.mark.parametrize("timeout", ["99999999H", "1M", "5000m", "5000000u", "50000000n"])
    async def test_a_good_timeout(self, lane: Lane, timeout: str) -> None:
        assert await self.one(lane, lambda p: p.call(1, timeout=timeout)) == OK

    async def test_no_timeout(self, lane: Lane) -> None:
        assert await self.one(lane, lambda p: p.call(1, without=["grpc-timeout"])) == INVALID

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"\0\0\0",
            message(b"abc")[:-1],
            message(b"") + message(b""),
            message(b"") + b"\0",
            b"\1" + message(b"x")[1:],
            b"\2" + message(b"x")[1:],
        ],
    )
    async def test_a_body_that_is_not_one_message(self, lane: Lane, body: bytes) -> None:
        make = lambda p: p.headers(1) + frame(DATA, END_STREAM, 1, body)  # noqa: E731
        assert await self.one(lane, make) == INVALID
        assert lane.served.events[-2].code == "INVALID_ARGUMENT"  # before the good call after it

    async def test_a_message_in_pieces_of_a_byte(self, lane: Lane) -> None:
        body = message(b"\x0a\x03abc")
        pieces = [
            frame(DATA, END_STREAM if at + 1 == len(body) else 0, 1, body[at : at + 1]) for at in range(len(body))
        ]
        assert await self.one(lane, lambda p: p.headers(1) + b"".join(pieces)) == OK

    async def test_a_length_beyond_the_limit_is_refused_before_it_comes(self, lane: Lane) -> None:
        def use(peer: H2Peer) -> tuple[str, dict[int, int]]:
            peer.send(peer.headers(1) + frame(DATA, 0, 1, struct.pack(">BI", 0, 2**32 - 1)))
            seen = peer.frames(lambda one: one.type == RST)
            return peer.status(seen, 1), resets(seen)

        assert await lane.run(use) == (EXHAUSTED, {1: 0})
        assert lane.served.events[-1].code == "RESOURCE_EXHAUSTED"

    async def test_encodings(self, lane: Lane) -> None:
        assert await self.one(lane, lambda p: p.call(1, extra=[("grpc-encoding", "identity")])) == OK
        assert await self.one(lane, lambda p: p.call(1, extra=[("grpc-encoding", "snappy")])) == UNIMPLEMENTED
        flagged = b"\1" + message(b"not gzip")[1:]
        extra = [("grpc-encoding", "gzip")]
        make = lambda p: p.headers(1, extra) + frame(DATA, END_STREAM, 1, flagged)  # noqa: E731
        assert await self.one(lane, make) == INVALID

    async def test_a_body_that_never_ends_meets_its_deadline(self, lane: Lane) -> None:
        make = lambda p: p.headers(1, timeout="80m") + frame(DATA, 0, 1, message(b"x")[:4])  # noqa: E731
        assert await self.one(lane, make) == EXCEEDED

    async def test_a_cancelled_call_makes_room(self, lane: Lane) -> None:
        make = lambda p: (  # noqa: E731
            p.call(1, body=b"\x0a\x0530000", path=SLEEP) + frame(RST, 0, 1, struct.pack(">I", 8)) + p.call(3)
        )
        assert await self.one(lane, make, 3) == OK
        async with asyncio.timeout(5):
            await lane.served.chain.wait_idle()


async def test_windows_are_obeyed_to_the_byte(lane: Lane) -> None:
    def use(peer: H2Peer) -> list[int]:
        sizes = []
        peer.send(peer.call(1, b"\x0a\x03abc"))
        sizes.append(sum(len(f.payload) for f in peer.frames(seconds=0.4) if f.type == DATA))
        for more in (4, 100):
            peer.send(frame(WINDOW, 0, 1, struct.pack(">I", more)))
            sizes.append(sum(len(f.payload) for f in peer.frames(ended(1), seconds=0.6) if f.type == DATA))
        return sizes

    assert await lane.run(use, setting(4, 3)) == [3, 4, 3]


async def test_a_peer_beyond_its_window_is_stopped(lane: Lane) -> None:
    """It sends more on a stream than it may while the handler does not take it."""

    def use(peer: H2Peer) -> bool:
        peer.send(peer.call(1, b"\x0a\x053000"[:7], path=SLEEP))
        peer.send(peer.headers(3, path=BOTH))
        part = frame(DATA, 0, 3, message(b"\x0a" + b"\xf6\x7f" + bytes(16_374)))
        for _ in range(40):
            peer.send(part)  # answers are not read by us: windows of 65,535 fill, then the handler waits
        seen = peer.frames(lambda one: one.type in (GOAWAY, RST, OVER), seconds=3)
        # What it still sends may meet a closed socket, and then the GOAWAY is lost with it.
        return goaway(seen) == FLOW or FLOW in resets(seen).values() or seen[-1].type == OVER

    assert await lane.run(use)


async def test_too_many_streams_are_refused(lane: Lane) -> None:
    def use(peer: H2Peer) -> set[int]:
        peer.frames(lambda one: one.type == SETTINGS and bool(one.flags & 1))
        peer.send(frame(SETTINGS, 1, 0))
        body = b"\x0a\x0520000"
        peer.send(b"".join(peer.call(1 + 2 * n, body, path=SLEEP) for n in range(260)))
        return set(resets(peer.frames(lambda one: one.stream == 519)).values())

    assert await lane.run(use) <= {7}


async def test_a_ping_is_answered(lane: Lane) -> None:
    def use(peer: H2Peer) -> bool:
        peer.send(frame(PING, 0, 0, b"12345678"))
        return any(f.type == PING and f.flags == 1 and f.payload == b"12345678" for f in peer.frames(seconds=1))

    assert await lane.run(use)


async def test_a_slow_hello_in_pieces(lane: Lane) -> None:
    def use(peer: H2Peer) -> str:
        for byte in PREFACE + frame(SETTINGS, 0, 0):
            peer.send(bytes([byte]))
            time.sleep(0.001)
        peer.send(peer.call(1))
        return peer.status(peer.frames(ended(1)), 1)

    assert await lane.run(use, hello=False) == OK
