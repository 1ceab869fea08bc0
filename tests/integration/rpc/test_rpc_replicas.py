"""A client goes round the replicas of a service, and loses no call that may be repeated when one of them goes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from tests.support.authority import Authority, folder
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import Served, serving

PATIENCE = 30.0


@dataclass
class Replicas:
    """Two replicas behind one address, and a client of them."""

    served: list[Served]
    echoes: list[Echo]
    client: ServiceClient

    async def spread(self, calls: int) -> Counter[int]:
        """Call and return how many calls each replica got."""
        before = [len(echo.calls) for echo in self.echoes]
        for _ in range(calls):
            await self.client.call("Sleep", BytesValue(value=b"0"), timeout=10, request_id="")
        return Counter({place: len(echo.calls) - before[place] for place, echo in enumerate(self.echoes)})

    async def until(self, *places: int) -> None:
        """Wait until calls go to these replicas and no other."""
        async with asyncio.timeout(PATIENCE):
            while {place for place, calls in (await self.spread(8)).items() if calls} != set(places):
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def replicas(tmp: Path) -> AsyncIterator[Replicas]:
    """Serve the same service twice."""
    authority, echoes = Authority(), [Echo(), Echo()]
    async with contextlib.AsyncExitStack() as stack:
        served = [
            await stack.enter_async_context(serving(tmp / str(place), [echo_service(echo)], authority=authority))
            for place, echo in enumerate(echoes)
        ]
        kept = folder(tmp / "ana", authority.user("ana"))
        address = ",".join(each.target for each in served)
        channel = RotatingChannel(address, "ingestion.hedgerow.local", kept)
        served[0].channels.append(channel)
        yield Replicas(served, echoes, ServiceClient(channel, DESCRIPTOR))


async def test_calls_go_to_both_and_only_to_what_serves(tmp_path: Path) -> None:
    """A replica that says NOT_SERVING gets no calls, and gets them again when it serves."""
    async with replicas(tmp_path) as pair:
        await pair.until(0, 1)
        assert (await pair.spread(20)) == {0: 10, 1: 10}
        await pair.served[0].server.health.set(False)
        await pair.until(1)
        await pair.served[0].server.health.set(True)
        await pair.until(0, 1)


async def test_a_drain_waits_for_calls_and_not_for_those_who_watch_its_health(tmp_path: Path) -> None:
    """A replica that stops finishes what it has and ends soon; callers that repeat on UNAVAILABLE notice nothing."""
    async with replicas(tmp_path) as pair:
        await pair.until(0, 1)
        stopping = asyncio.Event()

        async def keep_calling() -> int:
            count = 0
            while not stopping.is_set():
                await pair.client.call("Sleep", BytesValue(value=b"5"), timeout=10)
                count += 1
            return count

        calls = [asyncio.create_task(keep_calling()) for _ in range(4)]
        async with asyncio.timeout(PATIENCE):
            await pair.served[0].server.stop(notice=0.2, grace=10 * PATIENCE)
        await pair.until(1)
        stopping.set()
        assert min(await asyncio.gather(*calls)) > 0
