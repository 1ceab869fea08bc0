"""Training runs from request to registered version, one at a time.

Rules:

1. A run is kept before its request is answered; a repeated request finds it.
2. At most ``waiting`` runs wait; one more is refused.
3. A run that was cancelled, or left open by a process that ended, is closed as such; it never starts over by itself.
4. From the moment its version is being registered a run can no longer be cancelled: there would be half a version. It
   has SUCCEEDED when the version is kept, by the same write.
5. How else it ended is written until it is kept, however long the database is away, or until the service stops.
6. Rows and protected attributes live in memory for the length of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import numpy as np

from hedgerow.errors import FailedPreconditionError, HedgerowError, ResourceExhaustedError
from libs.telemetry import get_logger
from libs.telemetry.logs import fault_location
from services.training.evaluation import Evaluation, evaluate
from services.training.feature_source import Delegation, FeatureSource, Source
from services.training.launch import Limits, Trained, TrainingFailedError, TrainingProcess
from services.training.recipe import Recipe, for_judging, for_ranks
from services.training.records import EpochMetrics, RunRecord, RunState
from services.training.registry import Candidate, Registry
from services.training.run_counts import RunCounts
from services.training.splits import Split, split_rows
from services.training.store import TrainingStore
from services.training.training_set import TrainingRows

INTERRUPTED: Final = "the training service stopped before the run was done; ask for it again"
BROKEN: Final = "the training service failed; give its operator the name of the run"
RETRY_SECONDS: Final = 30.0
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0
T = TypeVar("T")
log = get_logger()


@dataclass(frozen=True, slots=True)
class Reads:
    """What a run may read, and as whom.

    Attributes:
        source: the training set.
        data: leave to read it.
        fairness: leave to read protected attributes.
    """

    source: Source
    data: Delegation
    fairness: Delegation


@dataclass(frozen=True, slots=True)
class AtWork:
    """The run at work.

    Attributes:
        work: the run itself; cancelled to end it.
        ending: waits for it and keeps how it ended; never cancelled.
    """

    work: asyncio.Task[str]
    ending: asyncio.Task[None]


class TrainingRuns:
    """The queue of runs and the one that is at work. Belongs to one event loop."""

    def __init__(
        self,
        store: TrainingStore,
        features: FeatureSource,
        registry: Registry,
        *,
        limits: Limits,
        waiting: int,
        now_us: Callable[[], int],
    ) -> None:
        """Name the parts.

        Args:
            store: where runs are kept.
            features: where rows come from.
            registry: where versions go.
            limits: of a training process.
            waiting: runs that may wait.
            now_us: the time, µs since 1970 UTC.
        """
        self._store = store
        self._features = features
        self._registry = registry
        self._limits = limits
        self._now_us = now_us
        self._queue: asyncio.Queue[tuple[RunRecord, Reads]] = asyncio.Queue(waiting)
        self._at_work: dict[str, AtWork] = {}
        self._beginnings: set[asyncio.Task[RunRecord]] = set()
        # From before a run is kept until its end is.
        self._known: set[str] = set()
        # Refused, and still kept until the database takes that back; and how many are no longer.
        self._discarding: set[str] = set()
        self._discarded = 0
        self._closing = asyncio.Event()
        self._cancelled: set[str] = set()
        self._registering: set[str] = set()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self.counts = RunCounts(self._queue.qsize)
        # One thread for the process that trains, so that waiting for it takes none from the calls.
        self._executor = ThreadPoolExecutor(1, "training-run")

    async def create(self, record: RunRecord, reads: Reads) -> RunRecord:
        """Keep and queue a run, and return what is kept; a caller who goes away does not stop it half-way.

        Raises:
            ResourceExhaustedError: too many runs wait.
            AlreadyExistsError: as ``TrainingStore.add_run`` does.
        """
        task = asyncio.create_task(self._keep_and_queue(record, reads))
        self._beginnings.add(task)
        task.add_done_callback(self._begun)
        return await asyncio.shield(task)

    def _begun(self, task: asyncio.Task[RunRecord]) -> None:
        self._beginnings.discard(task)
        if not task.cancelled():
            task.exception()  # asked for, since the caller who would be told may be gone

    async def _keep_and_queue(self, record: RunRecord, reads: Reads) -> RunRecord:
        self._known.add(record.run_id)
        discarded = self._discarded
        try:
            kept = await asyncio.to_thread(self._store.add_run, record)
        except BaseException:
            self._known.discard(record.run_id)
            raise
        if kept.run_id != record.run_id:
            self._known.discard(record.run_id)
            if kept.state is not RunState.QUEUED or kept.run_id in self._known:
                return kept
            if kept.run_id in self._discarding or discarded != self._discarded:
                # It was refused, and is gone by now or soon will be.
                raise self._too_many_wait()
            # It was kept by a write whose answer was lost.
            self._known.add(kept.run_id)
        try:
            self._queue.put_nowait((kept, reads))
        except asyncio.QueueFull:
            # Forgotten, so that the same request can be made again.
            self._known.discard(kept.run_id)
            self._discarding.add(kept.run_id)
            try:
                await self._until_kept(kept.run_id, functools.partial(self._store.discard_run, kept.run_id))
            finally:
                self._discarding.discard(kept.run_id)
                self._discarded += 1
            raise self._too_many_wait() from None
        return kept

    def _too_many_wait(self) -> ResourceExhaustedError:
        return ResourceExhaustedError(
            f"{self._queue.maxsize} runs already wait; try again when one has ended", retry_after=RETRY_SECONDS
        )

    async def cancel(self, run_id: str) -> RunRecord:
        """End a run and return it once it has ended.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: it has ended, or its version is being registered.
        """
        record = await asyncio.to_thread(self._store.run, run_id)
        if record.state.ended or run_id in self._registering:
            raise _not_cancellable(record, "has ended" if record.state.ended else "is being registered as a version")
        if run_id in self._known:
            self._cancelled.add(run_id)
        if (at_work := self._at_work.get(run_id)) is not None:
            at_work.work.cancel()
            await asyncio.wait([at_work.ending])
        else:
            await self._close_run(run_id, RunState.CANCELLED)
        record = await asyncio.to_thread(self._store.run, run_id)
        if record.state is not RunState.CANCELLED:
            raise _not_cancellable(record, "has ended")
        return record

    async def watch(self, run_id: str) -> AsyncIterator[RunRecord]:
        """Yield a run now and at each change until it has ended.

        Raises:
            NotFoundError: there is none.
        """
        changed = asyncio.Event()
        self._watchers.setdefault(run_id, set()).add(changed)
        try:
            while True:
                changed.clear()
                record = await asyncio.to_thread(self._store.run, run_id)
                yield record
                if record.state.ended:
                    return
                await changed.wait()
        finally:
            self._watchers[run_id].discard(changed)
            if not self._watchers[run_id]:
                del self._watchers[run_id]

    async def work(self) -> None:
        """Carry out runs one after another, for the life of the process."""
        try:
            while not self._closing.is_set():
                record, reads = await self._queue.get()
                run_id = record.run_id
                if run_id in self._cancelled:
                    # Whoever cancelled it may have gone before that was kept.
                    await self._close_run(run_id, RunState.CANCELLED)
                elif self._closing.is_set():
                    return  # it stays QUEUED, which the next start closes as interrupted
                else:
                    work = asyncio.create_task(self._run(record, reads))
                    ending = asyncio.create_task(self._end(record, work))
                    self._at_work[run_id] = AtWork(work, ending)
                    await asyncio.wait([ending])
                    del self._at_work[run_id]
                self._known.discard(run_id)
                self._cancelled.discard(run_id)
        finally:
            self._executor.shutdown(wait=False)

    async def close(self) -> None:
        """End the run at work; it is closed as interrupted, unless its version is being registered."""
        self._closing.set()
        for run_id, at_work in self._at_work.items():
            if run_id not in self._registering:
                at_work.work.cancel()
        under_way: Sequence[asyncio.Task[Any]] = [
            *self._beginnings,
            *(at_work.ending for at_work in self._at_work.values()),
        ]
        if under_way:
            await asyncio.wait(under_way)

    # ---- one run

    async def _end(self, record: RunRecord, work: asyncio.Task[str]) -> None:
        """Wait for a run and keep how it ended."""
        await asyncio.wait([work])
        run_id = record.run_id
        if work.cancelled():
            is_wanted = run_id in self._cancelled
            state = RunState.CANCELLED if is_wanted else RunState.FAILED
            await self._close_run(run_id, state, "" if is_wanted else INTERRUPTED)
        elif (error := work.exception()) is None:
            self._ended(run_id, RunState.SUCCEEDED)
        else:
            await self._close_run(run_id, RunState.FAILED, _why(record, error))

    async def _run(self, record: RunRecord, reads: Reads) -> str:
        if not await asyncio.to_thread(self._store.set_state, record.run_id, RunState.TRAINING):
            raise FailedPreconditionError(f"{record.name} has ended")
        self._notify(record.run_id)
        rows = await self._features.rows(reads.source, reads.data)
        splits = await asyncio.to_thread(split_rows, rows, record.spec.seed)
        epochs: list[EpochMetrics] = []
        trained = await self._train(record, reads.source, rows, splits, epochs)
        evaluation = await self._evaluate(record, reads, rows, splits, trained, epochs)
        self._registering.add(record.run_id)
        try:
            candidate = Candidate(record.name, record.spec, reads.source, trained, evaluation)
            return await self._registry.register(candidate)
        finally:
            self._registering.discard(record.run_id)

    async def _train(
        self,
        record: RunRecord,
        source: Source,
        rows: TrainingRows,
        splits: dict[str, Split],
        epochs: list[EpochMetrics],
    ) -> Trained:
        loop = asyncio.get_running_loop()
        process = TrainingProcess(self._limits)
        run_id = record.run_id

        def on_event(event: dict[str, Any]) -> None:
            if event["event"] == "epoch":
                epochs.append(EpochMetrics(**{key: value for key, value in event.items() if key != "event"}))
                self._store.add_epoch(run_id, epochs[-1])
            elif event["event"] == "trained":
                self._store.set_state(run_id, RunState.GATING)
            else:
                return
            loop.call_soon_threadsafe(self._notify, run_id)

        def train() -> Trained:
            recipe = Recipe.of(record.spec, heads=len(rows.newest_first()))
            judging = for_judging(splits, np.asarray(source.mutable_fractions, dtype=np.float64))
            return process.run(recipe, for_ranks(splits), judging, on_event)

        future = loop.run_in_executor(self._executor, train)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            process.cancel()
            # The thread ends once its child has; nothing of the run may be left when this returns.
            with contextlib.suppress(Exception):
                await future
            raise

    async def _evaluate(
        self,
        record: RunRecord,
        reads: Reads,
        rows: TrainingRows,
        splits: dict[str, Split],
        trained: Trained,
        epochs: list[EpochMetrics],
    ) -> Evaluation:
        spec, source = record.spec, reads.source
        protected = await self._features.protected(
            spec.protected_feature_service,
            spec.protected_attributes,
            rows.entities[splits["gate"].rows].tolist(),
            rows.newest_first()[0],
            reads.fairness,
        )
        mutable = {
            name: fraction
            for name, fraction in zip(source.feature_names, source.mutable_fractions, strict=True)
            if fraction > 0
        }
        return await asyncio.to_thread(evaluate, spec, splits, trained, protected, mutable, epochs)

    # ---- states

    async def _close_run(self, run_id: str, state: RunState, error: str = "") -> None:
        write = functools.partial(self._store.set_state, run_id, state, error=error, end_us=self._now_us())
        if await self._until_kept(run_id, write):
            self._ended(run_id, state)
        else:
            self._notify(run_id)  # it has ended otherwise, by a write whose answer was lost

    async def _until_kept(self, run_id: str, write: Callable[[], T]) -> T | None:
        """Write until it is kept, whatever is in the way; None when the service stopped before it was."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            is_last = self._closing.is_set()
            try:
                return await asyncio.to_thread(write)
            except Exception as error:
                log.warning("training_run_not_kept", run=f"trainingRuns/{run_id}", error=type(error).__name__)
            if is_last:
                return None
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _ended(self, run_id: str, state: RunState) -> None:
        self.counts.ended(state)
        log.info("training_run_ended", run=f"trainingRuns/{run_id}", state=state.value)
        self._notify(run_id)

    def _notify(self, run_id: str) -> None:
        for event in self._watchers.get(run_id, ()):
            event.set()


def _why(record: RunRecord, error: BaseException) -> str:
    """Return why a run failed, in words for its requester."""
    if isinstance(error, HedgerowError):
        return error.message
    if isinstance(error, TrainingFailedError):
        return str(error)
    log.error("training_run_broke", run=record.name, error=type(error).__name__, where=fault_location(error))
    return BROKEN


def _not_cancellable(record: RunRecord, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"{record.name} {why}", metadata={"resource": record.name})
