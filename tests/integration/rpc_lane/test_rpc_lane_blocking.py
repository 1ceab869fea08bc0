"""A handler that holds up the loop is found and named, on both transports, whatever its kind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from libs.rpc.blocking import LIMIT, watched
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import serving


def compute() -> None:
    """Take well over the limit of this thread's processor time."""
    begun = time.thread_time()
    while time.thread_time() - begun < 1.5 * LIMIT:
        pass


class Busy(Echo):
    """Computes where it should not, and where it may."""

    async def echo(self, request: Any, call: Any) -> Any:
        """Compute on the loop, behind a wait."""
        await asyncio.sleep(0)
        compute()
        return request

    async def sleep(self, request: Any, call: Any) -> Any:
        """Compute in a thread."""
        await asyncio.to_thread(compute)
        return request

    async def down(self, request: Any, call: Any) -> AsyncIterator[Any]:
        """Compute between two answers."""
        yield request
        compute()
        yield request


@pytest.mark.parametrize("transport", ["aio", "lane"])
async def test_a_handler_that_holds_up_the_loop_is_named(tmp_path: Path, transport: Literal["aio", "lane"]) -> None:
    found: list[str] = []
    service = echo_service(Busy())
    service.methods = [watched(method, lambda path, seconds: found.append(path)) for method in service.methods]
    async with serving(tmp_path, [service], transport=transport) as served:
        client = served.client(served.authority.user("ana"), DESCRIPTOR)
        await client.call("Sleep", BytesValue(value=b"a"), timeout=30)
        assert found == []
        await client.call("Echo", BytesValue(value=b"a"), timeout=30)
        assert found == ["/hedgerow.testing.v1.EchoService/Echo"]
        answers = [answer.value async for answer in client.stream("Down", BytesValue(value=b"b"), timeout=30)]
    assert answers == [b"b", b"b"]
    assert found[1:] == ["/hedgerow.testing.v1.EchoService/Down"]


async def test_what_a_watched_handler_raises_and_awaits_is_unchanged() -> None:
    method = next(one for one in echo_service(Echo()).methods if one.path.endswith("/Echo"))
    seen: list[Any] = []

    async def handler(request: Any, call: Any) -> Any:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    task = asyncio.create_task(
        watched(replace(method, handler=handler), lambda path, seconds: None).handler(None, None)
    )
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == ["cancelled"]
