"""Floods are cut off with the right code, cost no memory, and leave other callers served meanwhile.

The server is a process of its own, whose memory is watched while a bystander calls.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import socket
import struct
from collections.abc import Callable

import pytest

from tests.integration.rpc_lane.conftest import LaneProcess
from tests.integration.rpc_lane.test_rpc_lane_protocol import VIOLATIONS
from tests.support.h2_peer import (
    BOTH,
    CONTINUATION,
    DATA,
    HEADERS,
    OVER,
    PING,
    PRIORITY_UPDATE,
    RST,
    SETTINGS,
    SLEEP,
    Frame,
    H2Peer,
    ended,
    frame,
    goaway,
    message,
    setting,
)

PROTOCOL, INTERNAL, CALM = 1, 2, 11
CANCEL = struct.pack(">I", 8)


def rapid_reset(peer: H2Peer, turn: int) -> bytes:
    streams = range(1 + 100 * turn, 101 + 100 * turn, 2)
    return b"".join(peer.headers(n) + frame(RST, 0, n, CANCEL) for n in streams)


def made_to_reset(peer: H2Peer, turn: int) -> bytes:
    """Each stream breaks a rule when its handler has begun, so that it is the server who resets it."""
    streams = range(1 + 100 * turn, 101 + 100 * turn, 2)
    return b"".join(peer.headers(n, path=BOTH) + peer.headers(n) for n in streams)


def continuations(peer: H2Peer, turn: int) -> bytes:
    first = peer.headers(1, flags=0) if not turn else b""
    return first + frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 2000)


def empty_continuations(peer: H2Peer, turn: int) -> bytes:
    return (peer.headers(1, flags=0) if not turn else b"") + frame(CONTINUATION, 0, 1) * 100


def empty_data(peer: H2Peer, turn: int) -> bytes:
    return (peer.headers(1) if not turn else b"") + frame(DATA, 0, 1) * 1000


def hpack_bomb(peer: H2Peer, turn: int) -> bytes:
    bomb = (b"\x40\x01a\x7f\x81\x1e" + b"z" * 4000 if not turn else b"") + b"\xbe" * 4000
    return frame(HEADERS, 5, 1 + 2 * turn, bomb)


FLOODS: dict[str, tuple[Callable[[H2Peer, int], bytes], set[int]]] = {
    "rapid reset": (rapid_reset, {INTERNAL, CALM}),  # as libnghttp2 has it
    "made to reset": (made_to_reset, {CALM}),
    "CONTINUATION": (continuations, {CALM}),
    "empty CONTINUATION": (empty_continuations, {CALM}),
    "PING": (lambda peer, turn: frame(PING, 0, 0, b"12345678") * 500, {CALM}),
    "SETTINGS": (lambda peer, turn: frame(SETTINGS, 0, 0, setting(4, 65535)) * 500, {CALM}),
    "PRIORITY_UPDATE": (lambda peer, turn: frame(PRIORITY_UPDATE, 0, 0, b"\0\0\0\1u=1") * 500, {CALM}),
    "empty DATA": (empty_data, {CALM}),
    "HPACK bomb": (hpack_bomb, {CALM}),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_that_reads_nothing_is_cut_off(process: LaneProcess, name: str) -> None:
    """So that answers pile up if they can."""
    make, _ = FLOODS[name]

    def use() -> bool:
        with process.watched(), process.peer() as peer:
            taken = all(peer.send(make(peer, turn)) for turn in range(400))
            return not taken or peer.frames(lambda one: one.type == OVER, seconds=10)[-1].type == OVER

    assert await asyncio.to_thread(use)


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_that_reads_gets_its_goaway(process: LaneProcess, name: str) -> None:
    make, codes = FLOODS[name]

    def use() -> list[Frame]:
        with process.watched(), process.peer() as peer:
            seen: list[Frame] = []
            for turn in range(400):
                if not peer.send(make(peer, turn)) or goaway(seen) is not None:
                    break
                seen += peer.frames(lambda one: one.type == OVER, seconds=0.02)
            return seen + peer.frames(lambda one: one.type == OVER, seconds=10)

    seen = await asyncio.to_thread(use)
    assert goaway(seen) in codes
    assert seen[-1].type == OVER


async def test_violations_cost_nothing(process: LaneProcess) -> None:
    """Each of them, many times over."""

    def use() -> None:
        with process.watched():
            for _ in range(10):
                for name, (violation, codes) in VIOLATIONS.items():
                    with process.peer() as peer:
                        peer.send(violation(peer))
                        seen = peer.frames(lambda one: one.type == OVER, seconds=10)
                        assert goaway(seen) in codes, name

    await asyncio.to_thread(use)


async def test_slow_readers_hold_a_bounded_amount(process: LaneProcess) -> None:
    """One asks for 64 x 1 MB within its windows, and opens none for the answers."""

    def use() -> collections.Counter[str]:
        with process.watched(64), process.peer(setting(4, 0)) as peer:
            peer.frames(lambda one: one.type == SETTINGS and bool(one.flags & 1))
            body = message(b"\x0a\xc0\x84\x3d" + os.urandom(1_000_000))
            seen = [
                one
                for stream in range(1, 129, 2)
                for one in peer.upload(stream, body, peer.headers(stream, timeout="200S"))
            ]
            seen += peer.frames(seconds=0.5)
            return collections.Counter(peer.statuses(seen).values())

    statuses = await asyncio.to_thread(use)
    assert statuses["8"] > 30  # refused: sixteen answers wait already


async def test_slow_writers_hold_a_bounded_amount(process: LaneProcess) -> None:
    """Each of 100 calls sends 1 MB of a larger message and no more."""

    def use() -> collections.Counter[str]:
        with process.watched(100), process.peer() as peer:
            body = struct.pack(">BI", 0, 4_000_000) + bytes(1_000_000)
            seen = [
                one
                for stream in range(1, 201, 2)
                for one in peer.upload(stream, body, peer.headers(stream, timeout="200S"), end=False)
            ]
            seen += peer.frames(seconds=0.5)
            return collections.Counter(peer.statuses(seen).values())

    statuses = await asyncio.to_thread(use)
    assert statuses["8"] > 20


async def test_writers_of_a_byte_meet_their_deadline(process: LaneProcess) -> None:
    """40 connections send headers and the first bytes of a message, byte by byte, and never come to its end."""

    def use() -> set[str]:
        with contextlib.ExitStack() as stack:
            stack.enter_context(process.watched())
            peers = [stack.enter_context(process.peer()) for _ in range(40)]
            for peer in peers:
                peer.send(peer.headers(1, timeout="2S"))
            for byte in message(bytes(1000))[:60]:
                for peer in peers:
                    peer.send(frame(DATA, 0, 1, bytes([byte])))
            return {peer.status(peer.frames(ended(1), seconds=20), 1) for peer in peers}

    assert await asyncio.to_thread(use) == {"4"}


async def test_peers_that_vanish_leave_nothing(process: LaneProcess) -> None:
    """Half-open ones: 60 with a call in progress and a request begun close their half, or reset, or say nothing more."""

    def use() -> None:
        with contextlib.ExitStack() as stack:
            stack.enter_context(process.watched())
            for number in range(60):
                peer = stack.enter_context(process.peer())
                peer.send(peer.call(1, b"\x0a\x0520000", path=SLEEP, timeout="30S") + peer.headers(3, path=BOTH))
                peer.frames(lambda one: one.type == SETTINGS and bool(one.flags & 1))
                if number % 3 == 0:
                    peer.socket.shutdown(socket.SHUT_WR)
                elif number % 3 == 1:
                    peer.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    peer.socket.close()

    await asyncio.to_thread(use)


@pytest.mark.parametrize(
    ("fields", "codes"),
    [
        pytest.param([("x-a", "v" * 8000)] * 5, {CALM, PROTOCOL}, id="40 kB"),
        pytest.param([(f"x-{n}", "v") for n in range(200)], {CALM, PROTOCOL}, id="200 fields"),
    ],
)
async def test_oversized_headers_end_their_connection(
    process: LaneProcess, fields: list[tuple[str, str]], codes: set[int]
) -> None:
    def use() -> list[int | None]:
        found = []
        with process.watched():
            for _ in range(20):
                with process.peer() as peer:
                    block = peer.headers(1, fields, flags=5)[9:]
                    parts = [block[at : at + 16_000] for at in range(0, len(block), 16_000)]
                    last = len(parts) - 1
                    for at, part in enumerate(parts):
                        peer.send(frame(CONTINUATION if at else HEADERS, 1 + (4 if at == last else 0), 1, part))
                    found.append(goaway(peer.frames(lambda one: one.type == OVER, seconds=10)))
        return found

    assert set(await asyncio.to_thread(use)) <= codes


async def test_oversized_messages_are_refused_before_they_come(process: LaneProcess) -> None:
    """Each of 200 calls announces 4 GB and sends a MB of it, or as much of it as is taken."""

    def use() -> collections.Counter[str]:
        with process.watched(), process.peer() as peer:
            body = struct.pack(">BI", 0, 2**32 - 1) + bytes(1_000_000)
            seen = [one for n in range(1, 401, 2) for one in peer.upload(n, body, peer.headers(n), end=False)]
            return collections.Counter(peer.statuses(seen + peer.frames(seconds=0.5)).values())

    assert await asyncio.to_thread(use) == {"8": 200}


async def test_connections_that_never_shake_hands(process: LaneProcess) -> None:
    """600 of them, some silent, some with the start of a hello or rubbish: new callers still get in."""

    def use() -> bool:
        words = (b"", b"\x16\x03\x01\x02\x00\x01", os.urandom(200), b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.ExitStack() as stack:
            stack.enter_context(process.watched())
            for number in range(600):
                raw = stack.enter_context(socket.create_connection(("127.0.0.1", process.port), timeout=10))
                with contextlib.suppress(OSError):  # refused already, as it should be
                    raw.sendall(words[number % len(words)])
            peer = stack.enter_context(process.peer())
            peer.send(peer.call(1, b"\x0a\x03abc", timeout="20S"))
            return peer.status(peer.frames(ended(1), seconds=20), 1) == "0"

    assert await asyncio.to_thread(use)


async def test_cancelled_work_is_not_kept(process: LaneProcess) -> None:
    """900 calls that sleep, each cancelled at once: within the rate, so served, and nothing stays."""

    def use() -> str:
        with process.watched(), process.peer() as peer:
            for number in range(900):
                stream = 1 + 2 * number
                peer.send(peer.call(stream, b"\x0a\x0520000", path=SLEEP) + frame(RST, 0, stream, CANCEL))
            peer.send(peer.call(2001, timeout="20S"))
            return peer.status(peer.frames(ended(2001), seconds=20), 2001)

    assert await asyncio.to_thread(use) == "0"
