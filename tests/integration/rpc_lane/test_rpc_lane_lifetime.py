"""How connections live and end: handshakes, hellos, silence, age, stalls, drain."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import AsyncIterator

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.errors import ResourceExhaustedError
from libs.rpc.lane import LanePort, Limits
from tests.integration.rpc_lane.conftest import Lane
from tests.support.echo import DESCRIPTOR
from tests.support.h2_peer import (
    BOTH,
    DATA,
    GOAWAY,
    OVER,
    PING,
    PREFACE,
    SLEEP,
    Frame,
    H2Peer,
    ended,
    frame,
    goaway,
    message,
    setting,
)

DEFAULTS = Limits()


@pytest.fixture
def limits(request: pytest.FixtureRequest) -> Limits:
    return getattr(request, "param", DEFAULTS)


def short(**values: object) -> pytest.MarkDecorator:
    """Run a test with limits of its own."""
    return pytest.mark.parametrize("limits", [Limits(**values)], indirect=True)  # type: ignore[arg-type]


def until_over(peer: H2Peer) -> list[Frame]:
    return peer.frames(lambda one: one.type == OVER, seconds=8)


@short(handshake_seconds=1.0)
async def test_a_handshake_has_its_time(lane: Lane) -> None:
    def use() -> bytes:
        with socket.create_connection(("127.0.0.1", lane.served.server.port), timeout=8) as raw:
            raw.sendall(b"\x16\x03\x01")
            try:
                return raw.recv(10)
            except ConnectionResetError:
                return b""

    assert await asyncio.to_thread(use) == b""


async def test_requests_may_come_right_behind_the_handshake(lane: Lane) -> None:
    """A client that sends all that its windows allow at once, as fast ones do."""

    def use() -> str:
        with lane.peer(hello=False) as peer:
            body = message(b"\x0a\xe0\xd4\x03" + bytes(60_000))
            parts = range(0, len(body), 16384)
            data = [frame(DATA, int(at == parts[-1]), 1, body[at : at + 16384]) for at in parts]
            peer.send(PREFACE + frame(4, 0, 0) + peer.headers(1) + b"".join(data))
            return peer.status(peer.frames(ended(1)), 1)

    for _ in range(3):
        assert await asyncio.to_thread(use) == "0"


@short(preface_seconds=1.0)
async def test_a_hello_has_its_time(lane: Lane) -> None:
    assert (await lane.run(until_over, hello=False))[-1].type == OVER


@short(connections=2)
async def test_connections_have_a_bound(lane: Lane) -> None:
    def use() -> tuple[str, bool]:
        with lane.peer() as first, lane.peer() as second:
            first.frames(seconds=0.2)
            second.frames(seconds=0.2)
            with lane.peer() as third:
                over = third.frames(lambda one: one.type == OVER)[-1].type == OVER
            second.send(second.call(1))
            return second.status(second.frames(ended(1)), 1), over

    assert await asyncio.to_thread(use) == ("0", True)


@short(keepalive_seconds=1.0, keepalive_timeout=1.0)
async def test_a_peer_that_does_not_answer_a_ping_is_gone(lane: Lane) -> None:
    seen = await lane.run(until_over)
    assert any(one.type == PING and not one.flags for one in seen)
    assert seen[-1].type == OVER


@short(idle_seconds=1.0)
async def test_a_connection_without_calls_is_told_to_go(lane: Lane) -> None:
    seen = await lane.run(until_over)
    lasts = [int.from_bytes(one.payload[:4], "big") for one in seen if one.type == GOAWAY]
    assert (goaway(seen), lasts) == (0, [2**31 - 1, 0])
    assert seen[-1].type == OVER


@short(age_seconds=1.0)
async def test_age_ends_a_connection_but_no_call(lane: Lane) -> None:
    """A call begun before and one begun between the two GOAWAY are both answered."""

    def use(peer: H2Peer) -> tuple[list[Frame], str, str]:
        peer.send(peer.call(1, b"\x0a\x044000", path=SLEEP, timeout="9S"))
        first = peer.frames(lambda one: one.type == GOAWAY, seconds=6)
        peer.send(peer.call(3))
        rest = until_over(peer)
        both = [*first, *rest]
        statuses = peer.statuses(both)
        return both, statuses[1], statuses[3]

    seen, old, new = await lane.run(use)
    assert (old, new) == ("0", "0")
    assert [one.type for one in seen].count(GOAWAY) == 2
    assert seen[-1].type == OVER


@short(age_seconds=1.0)
async def test_clients_do_not_feel_the_age_of_a_connection(lane: Lane) -> None:
    served = lane.served
    client = served.client(served.authority.user("ana"), DESCRIPTOR)
    end = time.monotonic() + 5
    while time.monotonic() < end:
        assert (await client.call("Sleep", BytesValue(value=b"1"), timeout=5)).value == b"1"


@short(age_seconds=1.0, age_grace=2.0)
async def test_a_call_does_not_outlive_the_grace(lane: Lane) -> None:
    def use(peer: H2Peer) -> list[Frame]:
        peer.send(peer.call(1, b"\x0a\x0530000", path=SLEEP, timeout="40S"))
        return until_over(peer)

    assert (await lane.run(use))[-1].type == OVER
    async with asyncio.timeout(5):
        await lane.served.chain.wait_idle()


@short(stalled_seconds=1.0)
async def test_a_peer_that_reads_nothing_is_gone(lane: Lane) -> None:
    """It asks for more than the sockets hold and never reads, so not even a PING would come through."""

    def use() -> bool:
        with lane.peer(setting(4, 2**31 - 1)) as peer:
            peer.send(frame(8, 0, 0, struct.pack(">I", 2**30)))
            body = message(b"\x0a\xc0\x84\x3d" + bytes(1_000_000))
            for stream in range(1, 40, 2):
                parts = range(0, len(body), 16384)
                data = [frame(DATA, int(at == parts[-1]), stream, body[at : at + 16384]) for at in parts]
                if not peer.send(peer.headers(stream, timeout="20S") + b"".join(data)):
                    return True
            end = time.monotonic() + 8
            while time.monotonic() < end:
                if not peer.send(frame(PING, 0, 0, b"12345678")):
                    return True
                time.sleep(0.2)
            return False

    assert await asyncio.to_thread(use)


@short(request_seconds=1.0)
async def test_a_request_without_a_deadline_must_come(lane: Lane) -> None:
    def use(peer: H2Peer) -> str:
        peer.send(peer.headers(1, without=["grpc-timeout"]))
        return peer.status(peer.frames(ended(1)), 1)

    assert await lane.run(use) == "4"


@short(held_each=100_000)
async def test_waiting_bytes_have_a_bound(lane: Lane) -> None:
    served = lane.served
    client = served.client(served.authority.user("ana"), DESCRIPTOR)
    with pytest.raises(ResourceExhaustedError) as caught:
        await client.call("Echo", BytesValue(value=bytes(300_000)), timeout=5)
    assert caught.value.reason == "OVERLOADED"
    assert (await client.call("Echo", BytesValue(value=bytes(50_000)), timeout=5)).value == bytes(50_000)


async def test_a_handler_waits_for_a_caller_that_does_not_read(lane: Lane) -> None:
    """The answers of a stream that nobody reads stop at a bound, and go on when they are read."""
    made = 0

    async def requests() -> AsyncIterator[BytesValue]:
        nonlocal made
        for _ in range(200):
            made += 1
            yield BytesValue(value=bytes(100_000))

    served = lane.served
    channel = served.channel(served.authority.user("ana"))
    bound = channel.method("stream_stream", BOTH, BytesValue.SerializeToString, BytesValue.FromString)
    call = bound(requests(), timeout=20)
    await asyncio.sleep(1)
    assert made < 150
    assert sum([1 async for _ in call]) == 200
    assert made == 200


async def test_a_storm_of_handshakes_does_not_stall_calls(lane: Lane) -> None:
    """While 60 callers connect, one that is connected gets every answer."""
    served = lane.served
    client = served.client(served.authority.user("ana"), DESCRIPTOR)
    await client.call("Echo", BytesValue(), timeout=5)
    stop = asyncio.Event()

    async def keep_calling() -> int:
        count = 0
        while not stop.is_set():
            await client.call("Echo", BytesValue(), timeout=5)
            count += 1
        return count

    def storm() -> None:
        for _ in range(20):
            lane.peer().socket.close()

    calls = asyncio.create_task(keep_calling())
    await asyncio.gather(*(asyncio.to_thread(storm) for _ in range(3)))
    stop.set()
    assert await calls > 20


async def test_nothing_stays_after_the_last_connection(lane: Lane) -> None:
    for _ in range(5):
        await lane.run(lambda peer: peer.send(peer.headers(1) + peer.call(3)))
    port = lane.served.server._ports[0][1]
    assert isinstance(port, LanePort)
    end = time.monotonic() + 5
    while (port._handshakes or port.lane.connections) and time.monotonic() < end:
        await asyncio.sleep(0.02)
    assert (port._handshakes, port.lane.connections, port.lane.held) == ({}, set(), 0)
