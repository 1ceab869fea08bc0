"""Dynamic batching, with the field cases OIP-13 and OIP-16. The model is held by hand: nothing depends on timing."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from hedgerow.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError
from services.inference.batching import Batcher, BatchLimits, ModelFailedError

FAR = float("inf")


class HeldModel:
    """Echoes its rows, once let go; remembers the shape of every batch."""

    def __init__(self, *, held: bool = False) -> None:
        self.go = threading.Event()
        self.started = threading.Event()
        self.batches: list[tuple[int, ...]] = []
        self.error: Exception | None = None
        self.lost_rows = 0
        if not held:
            self.go.set()

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.started.set()
        assert self.go.wait(30)
        self.batches.append(rows.shape)
        if self.error is not None:
            raise self.error
        return rows[: len(rows) - self.lost_rows]


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


def rows_of(tag: float, count: int, width: int = 5) -> np.ndarray:
    return np.full((count, width), float(tag))


async def until(condition: Any) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def test_idle_model_runs_the_first_request_at_once(executor: ThreadPoolExecutor) -> None:
    model = HeldModel()
    batcher = Batcher(model, executor, BatchLimits())
    assert (await batcher.submit(rows_of(7, 2), expires_at=FAR)).tolist() == rows_of(7, 2).tolist()
    assert model.batches == [(2, 5)]


async def test_requests_that_arrive_while_busy_become_one_batch(executor: ThreadPoolExecutor) -> None:
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits())
    calls = [asyncio.create_task(batcher.submit(rows_of(tag, 1), expires_at=FAR)) for tag in range(5)]
    await until(model.started.is_set)
    model.go.set()
    answers = await asyncio.gather(*calls)
    assert [answer[0, 0] for answer in answers] == [0, 1, 2, 3, 4]
    assert model.batches == [(1, 5), (4, 5)]
    assert (batcher.statistics.requests, batcher.statistics.rows, batcher.statistics.batches) == (5, 5, 2)
    assert {rows: count for rows, (count, _) in batcher.statistics.batch_sizes.items()} == {1: 1, 4: 1}
    assert batcher.statistics.last_answer_s > 0


async def test_rows_return_to_their_caller_and_shapes_are_never_stacked(executor: ThreadPoolExecutor) -> None:
    """OIP-16."""
    model = HeldModel()
    batcher = Batcher(model, executor, BatchLimits(batch_rows=16))
    chance = random.Random(16)

    async def caller(tag: int) -> None:
        count, width = chance.randint(1, 7), chance.choice([5, 9])
        await asyncio.sleep(0)
        answer = await batcher.submit(rows_of(tag, count, width), expires_at=FAR)
        assert answer.shape == (count, width)
        assert (answer == tag).all()

    await asyncio.gather(*(caller(tag) for tag in range(200)))
    assert {width for _, width in model.batches} == {5, 9}
    assert all(count <= 16 for count, _ in model.batches)
    assert batcher.statistics.requests == 200
    assert sum(count for count, _ in model.batches) == batcher.statistics.rows


async def test_dtypes_are_never_stacked(executor: ThreadPoolExecutor) -> None:
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits())
    parts = [rows_of(1, 1), rows_of(2, 1), rows_of(3, 1).astype(np.float32)]
    calls = [asyncio.create_task(batcher.submit(part, expires_at=FAR)) for part in parts]
    await until(model.started.is_set)
    model.go.set()
    assert [answer.dtype for answer in await asyncio.gather(*calls)] == [np.float64, np.float64, np.float32]
    assert len(model.batches) == 3


async def test_empty_batch_beside_a_full_one(executor: ThreadPoolExecutor) -> None:
    """OIP-13."""
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits())
    first = asyncio.create_task(batcher.submit(rows_of(0, 1), expires_at=FAR))
    empty = asyncio.create_task(batcher.submit(rows_of(1, 0), expires_at=FAR))
    three = asyncio.create_task(batcher.submit(rows_of(2, 3), expires_at=FAR))
    await until(model.started.is_set)
    model.go.set()
    assert (await empty).shape == (0, 5)
    assert (await three).tolist() == rows_of(2, 3).tolist()
    await first
    assert model.batches == [(1, 5), (3, 5)]
    assert batcher.statistics.rows == 4


async def test_full_queue_refuses_and_recovers(executor: ThreadPoolExecutor) -> None:
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits(queue_requests=2, queue_rows=10))
    calls = [asyncio.create_task(batcher.submit(rows_of(tag, 1), expires_at=FAR)) for tag in range(3)]
    await until(model.started.is_set)
    with pytest.raises(ResourceExhaustedError) as caught:
        await batcher.submit(rows_of(9, 1), expires_at=FAR)
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.retry_after == pytest.approx(0.1)
    model.go.set()
    await asyncio.gather(*calls)
    assert (await batcher.submit(rows_of(9, 50), expires_at=FAR)).shape == (50, 5)


async def test_queue_is_bounded_in_rows(executor: ThreadPoolExecutor) -> None:
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits(queue_rows=10))
    calls = [asyncio.create_task(batcher.submit(rows_of(tag, 8), expires_at=FAR)) for tag in range(2)]
    await until(model.started.is_set)
    with pytest.raises(ResourceExhaustedError):
        await batcher.submit(rows_of(9, 8), expires_at=FAR)
    model.go.set()
    await asyncio.gather(*calls)


async def test_cancelled_request_never_runs_and_frees_its_place(executor: ThreadPoolExecutor) -> None:
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits(queue_requests=1))
    first = asyncio.create_task(batcher.submit(rows_of(0, 1), expires_at=FAR))
    await until(model.started.is_set)
    gone = asyncio.create_task(batcher.submit(rows_of(1, 1), expires_at=FAR))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    stays = asyncio.create_task(batcher.submit(rows_of(2, 1), expires_at=FAR))
    await asyncio.sleep(0)
    model.go.set()
    assert (await stays)[0, 0] == 2
    await first
    assert model.batches == [(1, 5), (1, 5)]
    assert batcher.statistics.expired == 1


async def test_expired_request_is_dropped_before_execution(executor: ThreadPoolExecutor) -> None:
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits())
    first = asyncio.create_task(batcher.submit(rows_of(0, 1), expires_at=FAR))
    await until(model.started.is_set)
    late = asyncio.create_task(batcher.submit(rows_of(1, 1), expires_at=asyncio.get_running_loop().time()))
    await asyncio.sleep(0)
    model.go.set()
    with pytest.raises(DeadlineExceededError):
        await late
    await first
    assert model.batches == [(1, 5)]


async def test_late_answer_is_dropped_and_counted(executor: ThreadPoolExecutor) -> None:
    """OIP-22: the caller went away while its batch ran; nobody else notices."""
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits())
    gone = asyncio.create_task(batcher.submit(rows_of(0, 1), expires_at=FAR))
    await until(model.started.is_set)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    model.go.set()
    assert (await batcher.submit(rows_of(1, 1), expires_at=FAR))[0, 0] == 1
    assert batcher.statistics.late == 1


async def test_failing_model_fails_the_batch_and_not_the_batcher(executor: ThreadPoolExecutor) -> None:
    model = HeldModel()
    batcher = Batcher(model, executor, BatchLimits())
    model.error = ValueError("internals that no caller sees")
    with pytest.raises(ModelFailedError) as caught:
        await batcher.submit(rows_of(0, 1), expires_at=FAR)
    assert caught.value.__cause__ is model.error
    model.error = None
    assert (await batcher.submit(rows_of(1, 1), expires_at=FAR))[0, 0] == 1
    assert batcher.statistics.failures == 1


async def test_model_that_loses_rows_gives_none_to_the_wrong_caller(executor: ThreadPoolExecutor) -> None:
    model = HeldModel()
    model.lost_rows = 1
    batcher = Batcher(model, executor, BatchLimits())
    with pytest.raises(ModelFailedError):
        await batcher.submit(rows_of(0, 2), expires_at=FAR)


async def test_close_answers_what_is_in_hand_and_refuses_the_rest(executor: ThreadPoolExecutor) -> None:
    model = HeldModel(held=True)
    batcher = Batcher(model, executor, BatchLimits())
    calls = [asyncio.create_task(batcher.submit(rows_of(tag, 1), expires_at=FAR)) for tag in range(3)]
    await until(model.started.is_set)
    closing = asyncio.create_task(batcher.close())
    await asyncio.sleep(0)
    with pytest.raises(UnavailableError) as caught:
        await batcher.submit(rows_of(9, 1), expires_at=FAR)
    assert caught.value.reason == "NOT_SERVING"
    model.go.set()
    await closing
    assert [answer[0, 0] for answer in await asyncio.gather(*calls)] == [0, 1, 2]


async def test_executor_that_is_shut_down_leaves_nobody_waiting() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    batcher = Batcher(HeldModel(), pool, BatchLimits())
    with pytest.raises(ModelFailedError):
        await batcher.submit(rows_of(0, 1), expires_at=FAR)
