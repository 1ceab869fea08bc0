"""What a server that shuts down still takes, and what it waits for."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from grpc_health.v1 import health_pb2

from hedgerow.errors import HedgerowError, UnavailableError, from_rpc_error
from libs.rpc.service import Audit, Service
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import Served, serving

PATIENCE_SECONDS = 60.0
# Whoever waits for it would not be done in time.
GRACE_SECONDS = 600.0
WATCH = "/hedgerow.testing.v1.EchoService/WatchEcho"


class Watched(Echo):
    """Has a call that ends when it is told to, and a watch that does not end."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()

    async def echo(self, request: Any, call: Any) -> Any:
        self.calls.append(call)
        await self.go_on.wait()
        return request

    async def watch_echo(self, request: Any, call: Any) -> AsyncIterator[Any]:
        yield request
        await asyncio.Event().wait()


def watched_service(servicer: Watched) -> Service:
    """Return the echo service, nothing of it audited when permitted, with a watch."""
    service = echo_service(servicer, Audit.NONE)
    down = next(method for method in service.methods if method.path.endswith("/Down"))
    service.methods.append(replace(down, path=WATCH, handler=servicer.watch_echo))
    return service


async def watch(served: Served) -> AsyncIterator[BytesValue]:
    """Watch as a client does that opens its watch again on the connection it has."""
    bound = served.channels[0].method("unary_stream", WATCH, BytesValue.SerializeToString, BytesValue.FromString)
    call = bound(BytesValue(value=b"1"), timeout=PATIENCE_SECONDS)
    try:
        async for answer in call:
            yield answer
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    finally:
        call.cancel()


async def not_serving(what: Any) -> None:
    with pytest.raises(UnavailableError) as refused:
        await what
    assert refused.value.reason == "NOT_SERVING"


@contextlib.asynccontextmanager
async def draining(tmp_path: Path) -> AsyncIterator[tuple[Served, Any, asyncio.Task[None]]]:
    """Serve with a call in progress and a watch open, begin the shutdown, and expect it to end when the call has."""
    servicer = Watched()
    async with serving(tmp_path, [watched_service(servicer)]) as served, asyncio.timeout(PATIENCE_SECONDS):
        client = served.client(served.authority.user("ana"), DESCRIPTOR)
        call = asyncio.create_task(client.call("Echo", BytesValue(value=b"a"), timeout=PATIENCE_SECONDS))
        opened = watch(served)
        await anext(opened)
        while not servicer.calls:
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(served.server.stop(notice=0, grace=GRACE_SECONDS))
        await not_serving(anext(opened))
        yield served, client, stopping
        assert not stopping.done()
        servicer.go_on.set()
        assert (await call).value == b"a"
        await stopping


async def test_a_watch_that_is_opened_again_does_not_hold_the_shutdown_up(tmp_path: Path) -> None:
    async with draining(tmp_path) as (served, _, _):
        await not_serving(anext(watch(served)))


async def test_what_is_not_audited_is_refused_all_the_same(tmp_path: Path) -> None:
    async with draining(tmp_path) as (_, client, _):
        await not_serving(client.call("Sleep", BytesValue(), timeout=PATIENCE_SECONDS))


async def test_health_is_told_to_the_end_and_not_waited_for(tmp_path: Path) -> None:
    async with draining(tmp_path) as (served, _, _):
        health = served.client(served.authority.user("ana"), health_pb2.DESCRIPTOR.services_by_name["Health"])
        request = health_pb2.HealthCheckRequest()
        answer = await health.call("Check", request, timeout=PATIENCE_SECONDS)
        watching = health.stream("Watch", request, timeout=PATIENCE_SECONDS)
        assert (await anext(watching)).status == answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
    await watching.aclose()


async def test_what_is_not_audited_takes_a_place_and_watches_take_none(tmp_path: Path) -> None:
    servicer = Watched()
    async with (
        serving(tmp_path, [watched_service(servicer)], max_calls=2) as served,
        asyncio.timeout(PATIENCE_SECONDS),
    ):
        client = served.client(served.authority.user("ana"), DESCRIPTOR)
        watches = [watch(served) for _ in range(3)]
        for opened in watches:
            await anext(opened)
        calls = [asyncio.create_task(client.call("Echo", BytesValue(), timeout=PATIENCE_SECONDS)) for _ in range(2)]
        while len(servicer.calls) < 2:
            await asyncio.sleep(0.01)
        with pytest.raises(HedgerowError) as refused:
            await client.call("Sleep", BytesValue(), timeout=PATIENCE_SECONDS)
        assert refused.value.reason == "OVERLOADED"
        servicer.go_on.set()
        await asyncio.gather(*calls)
        for opened in watches:
            await opened.aclose()  # type: ignore[attr-defined]
