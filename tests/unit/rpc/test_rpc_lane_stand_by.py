"""A call that is cancelled in the very turn in which it began is still ended in good order."""

from __future__ import annotations

import asyncio

import pytest

from libs.rpc.lane.eager import StandBy


@pytest.mark.parametrize("waits_for", ["a future", "a turn of the loop"])
async def test_calls_cancelled_as_they_begin_end_in_good_order(waits_for: str) -> None:
    loop = asyncio.get_running_loop()
    begun, ended = [], []

    async def call(number: int) -> None:
        begun.append(number)
        try:
            if waits_for == "a future":
                await loop.create_future()
            while True:
                await asyncio.sleep(0)
        finally:
            await asyncio.sleep(0)
            ended.append(number)

    made: asyncio.Future[StandBy] = loop.create_future()
    tasks: list[asyncio.Task[None]] = []

    def begin() -> None:  # outside of any task, as bytes of a peer come
        stand_by = made.result()
        for number in range(5):
            task = stand_by.run(call(number))
            assert task is not None
            task.cancel()
            tasks.append(task)

    loop.call_soon(lambda: made.set_result(StandBy(loop)))
    await made
    await asyncio.sleep(0)
    loop.call_soon(begin)
    while not tasks:
        await asyncio.sleep(0)
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    assert begun == ended != []
    made.result().close()
