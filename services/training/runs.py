"""Training runs from request to registered version, one at a time.

Rules:

1. A run is kept before its request is answered; a repeated request finds it.
2. At most ``waiting`` runs wait; one more is refused.
3. A run that was cancelled, or left open by a process that ended, is closed as such; it never starts over by itself.
4. From the moment its version is being registered a run can no longer be cancelled: there would be half a version.
5. Rows and protected attributes live in memory for the length of the run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

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
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._registering: set[str] = set()
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self.counts = RunCounts(self._queue.qsize)
        # One thread for the process that trains, so that waiting for it takes none from the calls.
        self._executor = ThreadPoolExecutor(1, "training-run")

    async def create(self, record: RunRecord, reads: Reads) -> RunRecord:
        """Keep and queue a run, and return what is kept.

        Raises:
            ResourceExhaustedError: too many runs wait.
            AlreadyExistsError: as ``TrainingStore.add_run`` does.
        """
        kept = await asyncio.to_thread(self._store.add_run, record)
        if kept.run_id != record.run_id:
            return kept
        try:
            self._queue.put_nowait((record, reads))
        except asyncio.QueueFull:
            # Forgotten, so that the same request can be made again.
            await asyncio.to_thread(self._store.discard_run, record.run_id)
            raise ResourceExhaustedError(
                f"{self._queue.maxsize} runs already wait; try again when one has ended", retry_after=RETRY_SECONDS
            ) from None
        return kept

    async def cancel(self, run_id: str) -> RunRecord:
        """End a run and return it once it has ended.

        Raises:
            NotFoundError: there is none.
            FailedPreconditionError: it has ended, or its version is being registered.
        """
        record = await asyncio.to_thread(self._store.run, run_id)
        if record.state.ended or run_id in self._registering:
            raise _not_cancellable(record, "has ended" if record.state.ended else "is being registered as a version")
        self._cancelled.add(run_id)
        if (task := self._tasks.get(run_id)) is not None:
            task.cancel()
            await asyncio.wait([task])
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
            while True:
                record, reads = await self._queue.get()
                if record.run_id in self._cancelled:
                    self._cancelled.discard(record.run_id)
                    continue
                task = asyncio.create_task(self._carry_out(record, reads))
                self._tasks[record.run_id] = task
                task.add_done_callback(functools.partial(self._forget, record.run_id))
                await asyncio.wait([task])
        finally:
            self._executor.shutdown(wait=False)

    async def close(self) -> None:
        """End the run at work; it is closed as interrupted."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def _forget(self, run_id: str, task: asyncio.Task[None]) -> None:
        self._tasks.pop(run_id, None)
        self._cancelled.discard(run_id)

    # ---- one run

    async def _carry_out(self, record: RunRecord, reads: Reads) -> None:
        run_id = record.run_id
        try:
            version = await self._run(record, reads)
            await self._close_run(run_id, RunState.SUCCEEDED, model_version=version)
        except asyncio.CancelledError:
            if run_id in self._cancelled:
                await self._close_run(run_id, RunState.CANCELLED)
            else:
                await self._close_run(run_id, RunState.FAILED, error=INTERRUPTED)
        except HedgerowError as error:
            await self._close_run(run_id, RunState.FAILED, error=error.message)
        except TrainingFailedError as error:
            await self._close_run(run_id, RunState.FAILED, error=str(error))
        except Exception as error:
            log.error("training_run_broke", run=record.name, error=type(error).__name__, where=fault_location(error))
            await self._close_run(run_id, RunState.FAILED, error=BROKEN)

    async def _run(self, record: RunRecord, reads: Reads) -> str:
        await self._move(record.run_id, RunState.TRAINING)
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

    async def _move(self, run_id: str, state: RunState) -> None:
        await asyncio.to_thread(self._store.set_state, run_id, state)
        self._notify(run_id)

    async def _close_run(self, run_id: str, state: RunState, *, model_version: str = "", error: str = "") -> None:
        end_us = self._now_us()
        await asyncio.to_thread(
            self._store.set_state, run_id, state, model_version=model_version, error=error, end_us=end_us
        )
        self.counts.ended(state)
        log.info("training_run_ended", run=f"trainingRuns/{run_id}", state=state.value)
        self._notify(run_id)

    def _notify(self, run_id: str) -> None:
        for event in self._watchers.get(run_id, ()):
            event.set()


def _not_cancellable(record: RunRecord, why: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"{record.name} {why}", metadata={"resource": record.name})
