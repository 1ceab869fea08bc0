"""Floods are cut off, cost no memory, and leave other callers served. The server is a process of its own."""

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
from tests.support.h2_peer import (
    CONTINUATION,
    DATA,
    HEADERS,
    OVER,
    PING,
    RST,
    SETTINGS,
    SLEEP,
    H2Peer,
    ended,
    frame,
    goaway,
    message,
    setting,
)

PROTOCOL, CALM = 1, 11
GROWTH = 24
"""MiB that a flood may cost; the allocator keeps some for the next one."""


def serves(process: LaneProcess) -> bool:
    """Whether another caller is served."""
    with process.peer() as peer:
        peer.send(peer.call(1, b"\x0a\x03abc"))
        return peer.status(peer.frames(ended(1)), 1) == "0"


def rapid_reset(peer: H2Peer, turn: int) -> bytes:
    streams = range(1 + 100 * turn, 101 + 100 * turn, 2)
    return b"".join(peer.headers(n) + frame(RST, 0, n, struct.pack(">I", 8)) for n in streams)


def continuations(peer: H2Peer, turn: int) -> bytes:
    first = peer.headers(1, flags=0) if not turn else b""
    return first + frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 2000)


def empty_data(peer: H2Peer, turn: int) -> bytes:
    return (peer.headers(1) if not turn else b"") + frame(DATA, 0, 1) * 1000


def hpack_bomb(peer: H2Peer, turn: int) -> bytes:
    bomb = (b"\x40\x01a\x7f\x81\x1e" + b"z" * 4000 if not turn else b"") + b"\xbe" * 4000
    return frame(HEADERS, 5, 1 + 2 * turn, bomb)


FLOODS: dict[str, Callable[[H2Peer, int], bytes]] = {
    "rapid reset": rapid_reset,
    "CONTINUATION": continuations,
    "PING": lambda peer, turn: frame(PING, 0, 0, b"12345678") * 500,
    "SETTINGS": lambda peer, turn: frame(SETTINGS, 0, 0, setting(4, 65535)) * 500,
    "empty DATA": empty_data,
    "HPACK bomb": hpack_bomb,
}


@pytest.mark.parametrize("name", FLOODS)
async def test_a_flood_is_cut_off(process: LaneProcess, name: str) -> None:
    """It never reads, so that answers pile up if they can."""

    def use() -> bool:
        with process.peer() as peer:
            taken = all(peer.send(FLOODS[name](peer, turn)) for turn in range(400))
            seen = peer.frames(lambda one: one.type == OVER, seconds=5)
            return not taken or goaway(seen) == CALM or seen[-1].type == OVER

    before = process.memory()
    assert await asyncio.to_thread(use)
    assert await asyncio.to_thread(serves, process)
    assert process.memory() - before < GROWTH


async def test_a_flood_that_is_read_gets_its_goaway(process: LaneProcess) -> None:
    def use(make: Callable[[H2Peer, int], bytes]) -> int | None:
        with process.peer() as peer:
            for turn in range(4):
                peer.send(make(peer, turn))
            return goaway(peer.frames(lambda one: one.type == OVER, seconds=5))

    for name in ("PING", "SETTINGS"):
        assert await asyncio.to_thread(use, FLOODS[name]) == CALM, name
    for name in ("HPACK bomb", "CONTINUATION"):
        assert await asyncio.to_thread(use, FLOODS[name]) in (CALM, PROTOCOL), name


async def test_a_reader_that_stalls_holds_a_bounded_amount(process: LaneProcess) -> None:
    """It asks for 64 x 1 MB within its windows, and opens none for the answers."""

    def use() -> collections.Counter[str]:
        with process.peer(setting(4, 0)) as peer:
            peer.frames(lambda one: one.type == SETTINGS and bool(one.flags & 1))
            body = message(b"\x0a\xc0\x84\x3d" + os.urandom(1_000_000))
            seen = [
                one
                for stream in range(1, 129, 2)
                for one in peer.upload(stream, body, peer.headers(stream, timeout="30S"))
            ]
            seen += peer.frames(seconds=0.5)
            return collections.Counter(peer.statuses(seen).values())

    before = process.memory()
    statuses = await asyncio.to_thread(use)
    assert statuses["8"] > 30  # refused: sixteen answers wait already
    assert process.memory() - before < 64
    assert await asyncio.to_thread(serves, process)


async def test_half_messages_hold_a_bounded_amount(process: LaneProcess) -> None:
    """Each of 100 calls sends 1 MB of a larger message and no more."""

    def use() -> collections.Counter[str]:
        with process.peer() as peer:
            body = struct.pack(">BI", 0, 4_000_000) + bytes(1_000_000)
            seen = [
                one
                for stream in range(1, 201, 2)
                for one in peer.upload(stream, body, peer.headers(stream, timeout="30S"), end=False)
            ]
            seen += peer.frames(seconds=0.5)
            return collections.Counter(peer.statuses(seen).values())

    before = process.memory()
    statuses = await asyncio.to_thread(use)
    assert statuses["8"] > 20
    assert process.memory() - before < 100
    assert await asyncio.to_thread(serves, process)


async def test_connections_that_never_shake_hands(process: LaneProcess) -> None:
    """600 of them, some silent, some with the start of a hello or rubbish: new callers still get in."""

    def use() -> bool:
        words = (b"", b"\x16\x03\x01\x02\x00\x01", os.urandom(200), b"GET / HTTP/1.1\r\n\r\n")
        opened = []
        for number in range(600):
            raw = socket.create_connection(("127.0.0.1", process.port), timeout=5)
            opened.append(raw)
            with contextlib.suppress(OSError):  # refused already, as it should be
                raw.sendall(words[number % len(words)])
        try:
            return serves(process)
        finally:
            for raw in opened:
                raw.close()

    before = process.memory()
    assert await asyncio.to_thread(use)
    assert process.memory() - before < GROWTH


async def test_cancelled_work_is_not_kept(process: LaneProcess) -> None:
    """900 calls that sleep, each cancelled at once: within the rate, so served, and nothing stays."""

    def use() -> str:
        with process.peer() as peer:
            for number in range(900):
                stream = 1 + 2 * number
                peer.send(peer.call(stream, b"\x0a\x0520000", path=SLEEP) + frame(RST, 0, stream, struct.pack(">I", 8)))
            peer.send(peer.call(2001))
            return peer.status(peer.frames(ended(2001)), 2001)

    before = process.memory()
    assert await asyncio.to_thread(use) == "0"
    assert process.memory() - before < GROWTH
