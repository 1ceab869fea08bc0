"""Dynamic batching: rows that arrive while the executor is busy are stacked and run together.

An idle executor is never made to wait: the first request runs at once, alone. Whatever arrives while it runs becomes
the next batch. So a lone caller pays nothing for batching, and under load batches grow to what the executor needs.

Rules:
- only requests whose rows have the same shape and dtype are stacked; other shapes wait for a batch of their own, and
  shapes take turns, so that none starves;
- the queue is bounded in requests and in rows; beyond that a caller is refused at once;
- a request that was cancelled or whose deadline has passed leaves the queue without being run;
- an answer is cut by the same offsets that stacked its rows, and a model that returns another number of rows fails the
  whole batch rather than give a row to the wrong caller.

One ``Batcher`` belongs to one event loop. ``run`` is called in the executor's threads, never on the loop.
"""

from __future__ import annotations

import asyncio
import functools
import time
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from hedgerow.errors import DeadlineExceededError, ResourceExhaustedError, UnavailableError
from libs.telemetry.instruments import SECONDS

Array = npt.NDArray[Any]
Run = Callable[[Array], Array]

_RETRY_AFTER_S: Final = 0.1


class ModelFailedError(Exception):
    """The model raised, or returned another number of rows; its own exception is the cause."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Bounds of one model's queue.

    Attributes:
        batch_rows: rows stacked into one batch; a single larger request still runs, alone.
        queue_requests: requests waiting.
        queue_rows: rows waiting.
        concurrency: batches in the executor at once.
    """

    batch_rows: int = 256
    queue_requests: int = 1024
    queue_rows: int = 65_536
    concurrency: int = 1


@dataclass(slots=True)
class BatchStatistics:
    """Counts since the model was loaded; times in nanoseconds, each summed over requests.

    Attributes:
        requests: requests answered.
        rows: rows answered.
        batches: executions of the model.
        failures: requests that failed in the model.
        expired: requests dropped before execution, since nobody waited for them any more.
        late: answers that came after their caller had gone.
        queue_ns: time spent waiting for the executor.
        compute_ns: time spent in the model.
        last_answer_s: Unix time of the last answer, in seconds; 0 before the first.
        queue_counts: requests by how long they waited, with the upper bounds of ``SECONDS``.
        batch_sizes: rows in a batch to how many such batches ran and their time in the model.
    """

    requests: int = 0
    rows: int = 0
    batches: int = 0
    failures: int = 0
    expired: int = 0
    late: int = 0
    queue_ns: int = 0
    compute_ns: int = 0
    last_answer_s: float = 0.0
    queue_counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    batch_sizes: dict[int, tuple[int, int]] = field(default_factory=dict)


@dataclass(eq=False, slots=True)
class _Waiting:
    """One request in the queue; its identity is its key."""

    rows: Array
    answer: asyncio.Future[Array]
    expires_at: float
    queued_ns: int


@dataclass(frozen=True, slots=True)
class _Executed:
    """What the executor made of one batch."""

    answer: Array
    began_ns: int
    took_ns: int


_Shape = tuple[tuple[int, ...], np.dtype[Any]]


class Batcher:
    """Runs one model's requests in batches.

    Args:
        run: the model: rows of shape [n, ...] to an array of shape [n, ...]. It must cope with n = 0.
        executor: where batches run.
        limits: bounds of the queue.
    """

    def __init__(self, run: Run, executor: Executor, limits: BatchLimits) -> None:
        self._run = run
        self._executor = executor
        self._limits = limits
        # A dict of waiting requests per shape: ordered, and a cancelled request leaves it in constant time.
        self._queues: OrderedDict[_Shape, dict[_Waiting, None]] = OrderedDict()
        self._waiting_requests = 0
        self._waiting_rows = 0
        self._running: set[asyncio.Future[_Executed]] = set()
        self._closed = False
        self.statistics = BatchStatistics()

    async def submit(self, rows: Array, *, expires_at: float) -> Array:
        """Return the model's answer for these rows, in their order.

        Args:
            rows: shape [n, ...]; not changed, and not copied when they run alone.
            expires_at: time of the event loop after which nobody waits for the answer.

        Raises:
            ResourceExhaustedError: the queue is full.
            DeadlineExceededError: the deadline passed before the rows could run.
            UnavailableError: the batcher is closed.
            ModelFailedError: the model failed; the chain answers INTERNAL and logs where.
        """
        if self._closed:
            raise UnavailableError("the model is being unloaded; try again", reason="NOT_SERVING", retry_after=1.0)
        self._check_room(len(rows))
        waiting = _Waiting(rows, asyncio.get_running_loop().create_future(), expires_at, time.perf_counter_ns())
        self._queues.setdefault((rows.shape[1:], rows.dtype), {})[waiting] = None
        self._waiting_requests += 1
        self._waiting_rows += len(rows)
        self._dispatch()
        try:
            return await waiting.answer
        except asyncio.CancelledError:
            if self._withdraw(waiting):
                self.statistics.expired += 1
            raise

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._waiting_requests

    async def close(self) -> None:
        """Refuse new requests and wait until those in hand are answered."""
        self._closed = True
        while self._running:
            await asyncio.wait(self._running)
            await asyncio.sleep(0)  # lets the done callbacks start the next batch

    def _check_room(self, rows: int) -> None:
        limits = self._limits
        # A request that finds the queue empty is taken whatever its size: its bound is the size of a message.
        if self._waiting_requests and (
            self._waiting_requests >= limits.queue_requests or self._waiting_rows + rows > limits.queue_rows
        ):
            raise ResourceExhaustedError(
                f"{self._waiting_requests} requests already wait for this model; try again later",
                retry_after=_RETRY_AFTER_S,
            )

    def _withdraw(self, waiting: _Waiting) -> bool:
        """Take a request out of the queue; False when it is no longer there."""
        shape: _Shape = (waiting.rows.shape[1:], waiting.rows.dtype)
        queue = self._queues.get(shape)
        if queue is None or waiting not in queue:
            return False
        del queue[waiting]
        if not queue:
            del self._queues[shape]
        self._waiting_requests -= 1
        self._waiting_rows -= len(waiting.rows)
        return True

    def _dispatch(self) -> None:
        """Start batches while there are rows to run and a free place in the executor."""
        loop = asyncio.get_running_loop()
        while self._queues and len(self._running) < self._limits.concurrency:
            batch = self._next_batch(loop.time())
            if not batch:
                continue
            try:
                running = loop.run_in_executor(self._executor, self._execute, [waiting.rows for waiting in batch])
            except RuntimeError as error:  # the executor is shut down: nobody may be left waiting
                self._fail(batch, error)
                continue
            self._running.add(running)
            running.add_done_callback(functools.partial(self._finish, batch))

    def _next_batch(self, now: float) -> list[_Waiting]:
        """Take the next batch of one shape from the queue, without the requests that have expired."""
        shape, queue = next(iter(self._queues.items()))
        batch: list[_Waiting] = []
        rows = 0
        while queue:
            waiting = next(iter(queue))
            if batch and rows + len(waiting.rows) > self._limits.batch_rows:
                break
            self._withdraw(waiting)
            if waiting.answer.done() or now >= waiting.expires_at:
                self._expire(waiting)
                continue
            batch.append(waiting)
            rows += len(waiting.rows)
        if shape in self._queues:
            self._queues.move_to_end(shape)
        return batch

    def _expire(self, waiting: _Waiting) -> None:
        self.statistics.expired += 1
        if not waiting.answer.done():
            waiting.answer.set_exception(DeadlineExceededError("the deadline passed while the request was waiting"))

    def _execute(self, parts: list[Array]) -> _Executed:
        """Run one batch, in the executor."""
        began_ns = time.perf_counter_ns()
        answer = self._run(parts[0] if len(parts) == 1 else np.concatenate(parts))
        return _Executed(answer, began_ns, time.perf_counter_ns() - began_ns)

    def _finish(self, batch: list[_Waiting], done: asyncio.Future[_Executed]) -> None:
        """Hand out the answers of one batch and start the next."""
        self._running.discard(done)
        try:
            self._answer(done, batch)
        finally:
            self._dispatch()

    def _answer(self, done: asyncio.Future[_Executed], batch: list[_Waiting]) -> None:
        rows = sum(len(waiting.rows) for waiting in batch)
        error = None if done.cancelled() else done.exception()
        if done.cancelled() or error is not None or len(done.result().answer) != rows:
            self._fail(batch, error)
            return
        executed = done.result()
        answer = executed.answer
        self._count(batch, rows, executed)
        start = 0
        for waiting in batch:
            stop = start + len(waiting.rows)
            if waiting.answer.done():
                self.statistics.late += 1
            else:
                waiting.answer.set_result(answer[start:stop])
            start = stop

    def _fail(self, batch: list[_Waiting], error: BaseException | None) -> None:
        self.statistics.failures += len(batch)
        for waiting in batch:
            if not waiting.answer.done():
                failure = ModelFailedError("the model could not be run on a batch")
                failure.__cause__ = error
                waiting.answer.set_exception(failure)

    def _count(self, batch: list[_Waiting], rows: int, executed: _Executed) -> None:
        statistics = self.statistics
        statistics.requests += len(batch)
        statistics.rows += rows
        statistics.batches += 1
        statistics.compute_ns += executed.took_ns * len(batch)
        for waiting in batch:
            queued_ns = max(0, executed.began_ns - waiting.queued_ns)
            statistics.queue_ns += queued_ns
            statistics.queue_counts[bisect_left(SECONDS, queued_ns / 1e9)] += 1
        statistics.last_answer_s = time.time()
        count, total_ns = statistics.batch_sizes.get(rows, (0, 0))
        statistics.batch_sizes[rows] = (count + 1, total_ns + executed.took_ns)
