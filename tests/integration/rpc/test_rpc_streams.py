"""A handler of a client stream sees the end of the messages only when the client has said that there are no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.client import ServiceClient
from hedgerow.errors import DeadlineExceededError, HedgerowError, PermissionDeniedError
from libs.rpc import Call
from libs.rpc.aio_transport import FINISH_SECONDS
from tests.support.authority import Authority
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import Served, serving

ROUNDS = 50
PART = BytesValue(value=b"part")


class Collector(Echo):
    """Notes each stream that it took for complete."""

    def __init__(self) -> None:
        super().__init__()
        self.begun = 0
        self.complete: list[bytes] = []

    async def up(self, requests: AsyncIterator[Any], call: Call) -> Any:
        parts = []
        async for request in requests:
            self.begun += 1
            parts.append(request.value)
        self.complete.append(b"".join(parts))
        return BytesValue(value=self.complete[-1])


@pytest.fixture
def collector() -> Collector:
    return Collector()


@pytest.fixture
async def served(tmp_path: Path, collector: Collector) -> AsyncIterator[Served]:
    async with serving(tmp_path, [echo_service(collector)]) as running:
        yield running


@pytest.fixture
def client(served: Served) -> ServiceClient:
    return served.client(served.authority.user("ana"), DESCRIPTOR)


async def part_of_it() -> AsyncIterator[BytesValue]:
    """Send one message and never say that it was the last."""
    yield PART
    await asyncio.Event().wait()


async def settled(collector: Collector, begun: int) -> None:
    """Wait until so many streams have begun, and for the end of the last of them."""
    async with asyncio.timeout(10):
        while collector.begun < begun:
            await asyncio.sleep(0.001)


async def test_a_stream_to_its_end_is_complete(client: ServiceClient, collector: Collector) -> None:
    async def all_of_it() -> AsyncIterator[BytesValue]:
        for _ in range(3):
            yield PART

    for _ in range(ROUNDS):
        assert (await client.send("Up", all_of_it())).value == b"partpartpart"
    assert collector.complete == [b"partpartpart"] * ROUNDS


async def test_a_cancelled_stream_is_not(client: ServiceClient, collector: Collector) -> None:
    for number in range(1, ROUNDS + 1):
        call = asyncio.create_task(client.send("Up", part_of_it()))
        await settled(collector, number)
        call.cancel()
        with contextlib.suppress(asyncio.CancelledError, HedgerowError):
            await call
    assert (await client.call("Echo", PART)).value == b"part"
    assert collector.complete == []


async def test_a_stream_past_its_deadline_is_not(client: ServiceClient, collector: Collector) -> None:
    for _ in range(ROUNDS):
        with pytest.raises(DeadlineExceededError):
            await client.send("Up", part_of_it(), timeout=0.02)
    assert (await client.call("Echo", PART)).value == b"part"
    assert collector.complete == []


async def test_streams_that_a_shutdown_cuts_off_are_not(
    served: Served, client: ServiceClient, collector: Collector
) -> None:
    calls = [asyncio.create_task(client.send("Up", part_of_it())) for _ in range(ROUNDS)]
    await settled(collector, ROUNDS)
    await served.server.stop(notice=0.0, grace=0.1)
    for outcome in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(outcome, HedgerowError)
    assert collector.complete == []


async def test_streams_of_a_client_that_is_gone_are_not(
    served: Served, collector: Collector, authority: Authority
) -> None:
    gone = served.channel(authority.user("ana"))
    calls = [asyncio.create_task(ServiceClient(gone, DESCRIPTOR).send("Up", part_of_it())) for _ in range(ROUNDS)]
    await settled(collector, ROUNDS)
    await gone.close()
    await asyncio.gather(*calls, return_exceptions=True)
    await served.server.stop(notice=0.0, grace=5.0)
    assert collector.complete == []


async def test_a_refusal_that_meets_a_write_arrives_as_itself(served: Served) -> None:
    """The server waits that long for the rest of a refused stream, so these first messages come as it answers."""

    async def late(pause: float) -> AsyncIterator[BytesValue]:
        await asyncio.sleep(pause)
        for _ in range(3):
            yield PART

    nobody = served.client(served.authority.user("nobody"), DESCRIPTOR)
    pauses = [FINISH_SECONDS + number / 1000 for number in range(30)] * 4
    for outcome in await asyncio.gather(*(nobody.send("Up", late(p)) for p in pauses), return_exceptions=True):
        assert isinstance(outcome, PermissionDeniedError)


@pytest.fixture
def authority(served: Served) -> Authority:
    return served.authority
