"""The light channel of the suite's benchmark gives what a ``grpc.aio`` channel gives, on both transports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from benchmarks.suite.wire import WireChannel
from hedgerow.client import ServiceClient
from hedgerow.errors import DeadlineExceededError, FailedPreconditionError, PermissionDeniedError, UnavailableError
from tests.support.authority import DOMAIN, folder
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import Served, serving


@pytest.fixture(params=["aio", "lane"])
async def served(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Served]:
    """The echo service on a transport."""
    async with serving(tmp_path, [echo_service(Echo())], transport=request.param) as running:
        yield running


def client(served: Served, user: str) -> tuple[WireChannel, ServiceClient]:
    """Return a channel that a user holds, and a client on it."""
    kept = folder(served.tmp / f"wire-{user}", served.authority.user(user))
    channel = WireChannel(served.target, f"{served.name}.{DOMAIN}", kept)
    return channel, ServiceClient(channel, DESCRIPTOR)  # type: ignore[arg-type]  # all that a client asks of a channel


async def test_answers_and_typed_errors_come_through(served: Served) -> None:
    channel, ana = client(served, "ana")
    sent = [BytesValue(value=b"%d" % number * number) for number in range(100)]
    assert await asyncio.gather(*(ana.call("Echo", each, timeout=20) for each in sent)) == sent
    with pytest.raises(FailedPreconditionError):
        await ana.call("Fail", BytesValue(value=b"0"), timeout=20)
    with pytest.raises(DeadlineExceededError):
        await ana.call("Sleep", BytesValue(value=b"30000"), timeout=0.2)
    await channel.close()
    channel, nobody = client(served, "nobody")
    with pytest.raises(PermissionDeniedError):
        await nobody.call("Echo", sent[1], timeout=20)
    await channel.close()


async def test_a_lost_connection_ends_its_calls(served: Served) -> None:
    channel, ana = client(served, "ana")
    await ana.call("Echo", BytesValue(value=b"x"), timeout=20)
    open_call = asyncio.create_task(ana.call("Sleep", BytesValue(value=b"30000"), timeout=30))
    async with asyncio.timeout(20):
        while not served.chain._working:
            await asyncio.sleep(0.01)
    await channel.close()
    with pytest.raises(UnavailableError):
        await open_call
