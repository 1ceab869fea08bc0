"""Use cases that take long: building a training set, and writing to the online store.

Rules:

1. Snapshots are opened while the caller waits, so that a refusal reaches the caller. The rest is a job, whose state is
   kept and streamed.
2. A job holds a file from before it is kept as RUNNING until its end is kept too. So what is RUNNING and has no file that
   a process holds is nobody's; it is marked FAILED, and asking again builds it anew.
3. The end of a job is written until it is kept, however long the database is away, or until the process stops.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack

from hedgerow.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HedgerowError,
    NotFoundError,
    UnavailableError,
)
from libs.telemetry import fault_location, get_logger
from services.features.computation import (
    Block,
    build_training_set,
    columns_by_dataset,
    materialize,
    offline_block,
)
from services.features.definitions import Definitions
from services.features.erasure import ErasureGate, NewKey, without
from services.features.expression import invalid
from services.features.held_files import HeldFiles
from services.features.online_store import OnlineStore
from services.features.point_in_time import PointInTime
from services.features.records import MaterializationRecord, State, TrainingSetRecord
from services.features.snapshots import Asker, Snapshot, Snapshots, contracts
from services.features.store import FeaturesStore
from services.features.training_set import (
    Cutoff,
    LabelDefinition,
    allowed_purposes,
    define_labels,
    digest,
    frames,
)
from services.features.training_set_files import TrainingSetFiles
from services.features.view import FeatureService
from services.features.workers import ChangeFeed, Jobs, Stop, Workers, pauses

INTERRUPTED = "the features service stopped before it was done; ask for it again"
log = get_logger()


class Builds:
    """Builds training sets, materializes, and answers offline reads."""

    def __init__(
        self,
        *,
        store: FeaturesStore,
        definitions: Definitions,
        snapshots: Snapshots,
        online: OnlineStore,
        files: TrainingSetFiles,
        gate: ErasureGate,
        new_key: NewKey,
        feed: ChangeFeed,
        running: HeldFiles,
        job_workers: Workers,
        read_workers: Workers,
        max_jobs: int,
        memory_limit_mib: int,
    ) -> None:
        """Take the stores and the means.

        Args:
            new_key: returns a fresh data key for a training set file and its wrapped form.
            feed: tells those who watch a training set or materialization.
            running: shows other processes which jobs somebody works on.
            job_workers: compute jobs.
            read_workers: compute offline answers.
            max_jobs: jobs that may run or wait.
            memory_limit_mib: what one computation may use.
        """
        self._store = store
        self._definitions = definitions
        self._snapshots = snapshots
        self._online = online
        self._files = files
        self._gate = gate
        self._new_key = new_key
        self._feed = feed
        self._running = running
        self._job_workers = job_workers
        self._read_workers = read_workers
        self._jobs = Jobs(max_jobs)
        self._memory = memory_limit_mib

    async def close(self) -> None:
        """Stop all jobs, wait for their threads, and mark what did not end as FAILED."""
        await self._jobs.close()
        await asyncio.to_thread(self._job_workers.close)
        await asyncio.to_thread(self._read_workers.close)
        await self.fail_abandoned()

    async def create_training_set(
        self, training_set_id: str, service_id: str, cutoffs: Sequence[Cutoff], asker: Asker, now_us: int
    ) -> TrainingSetRecord:
        """Start building a training set, or return the one that has this id and definition.

        Raises:
            HedgerowError: INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, RESOURCE_EXHAUSTED, or what ingestion answers.
        """
        service, _ = await self._definitions.service(service_id)
        kept = await asyncio.to_thread(self._kept, training_set_id, service_id, tuple(cutoffs))
        if kept is not None:
            return kept
        self._jobs.check_room()
        labels = define_labels(
            service, cutoffs, await contracts(self._snapshots, [each.dataset for each in cutoffs], asker)
        )
        await self._read_workers.run(lambda stop: _check_labels(labels))
        purposes = allowed_purposes(service, labels)
        if not purposes:
            raise invalid("training_set.cutoffs", "no purpose allows both the features and the label columns")
        with ExitStack() as stack:
            stack.enter_context(self._gate.job())
            snapshots = await self._open(service, labels, asker)
            record = TrainingSetRecord(
                training_set_id=training_set_id,
                service_id=service_id,
                cutoffs=tuple(cutoffs),
                purposes=tuple(sorted(purposes)),
                tags=tuple(sorted(service.tags.union(*(_tags(label) for label in labels)))),
                sources=tuple(f"{name}@{snapshot.version}" for name, snapshot in sorted(snapshots.items())),
                create_us=now_us,
            )
            return await self._jobs.begin(self._begin_set(record, service, labels, snapshots, stack.pop_all()))

    async def _begin_set(
        self,
        record: TrainingSetRecord,
        service: FeatureService,
        labels: Sequence[LabelDefinition],
        snapshots: dict[str, Snapshot],
        held: ExitStack,
    ) -> TrainingSetRecord:
        with held:
            held.enter_context(self._running.hold(record.name))
            kept = await asyncio.to_thread(self._store.add_training_set, record)
            if kept is record:
                # The job keeps the gate open until its last write.
                self._jobs.start(self._build(record, service, labels, snapshots, held.pop_all()))
        return kept

    async def create_materialization(self, service_id: str, as_of_us: int, asker: Asker) -> MaterializationRecord:
        """Start writing the values of a feature service to the online store.

        Raises:
            HedgerowError: NOT_FOUND, RESOURCE_EXHAUSTED, or what ingestion answers.
        """
        service, _ = await self._definitions.service(service_id)
        self._jobs.check_room()
        with ExitStack() as stack:
            stack.enter_context(self._gate.job())
            snapshots = await self._open(service, (), asker)
            record = MaterializationRecord(uuid.uuid4().hex, service_id, as_of_us)
            await self._jobs.begin(self._begin_materialization(record, service, snapshots, stack.pop_all()))
        return record

    async def _begin_materialization(
        self, record: MaterializationRecord, service: FeatureService, snapshots: dict[str, Snapshot], held: ExitStack
    ) -> None:
        with held:
            held.enter_context(self._running.hold(record.name))
            await asyncio.to_thread(self._store.add_materialization, record)
            self._jobs.start(self._materialize(record, service, snapshots, held.pop_all()))

    async def fail_abandoned(self) -> int:
        """Mark what is RUNNING and nobody works on as FAILED, and return how much there was."""
        names = await asyncio.to_thread(self._fail_abandoned)
        for name in names:
            self._feed.notify(name)
        return len(names)

    def _fail_abandoned(self) -> list[str]:
        # First what is RUNNING: whoever begins or ends a job after that holds its file, or has kept its end.
        running = self._store.running()
        self._running.abandoned()
        held = self._running.held()
        return [each.name for each in running if each.name not in held and self._store.fail(each, INTERRUPTED)]

    async def offline(self, service: FeatureService, entities: Sequence[str], as_of_us: int, asker: Asker) -> Block:
        """Return the features of stored entity keys as of a time.

        Raises:
            HedgerowError: RESOURCE_EXHAUSTED, FAILED_PRECONDITION, or what ingestion answers.
        """
        snapshots = await self._open(service, (), asker)
        return await self._read_workers.run(
            lambda stop: offline_block(service, entities, as_of_us, snapshots, stop, memory_limit_mib=self._memory)
        )

    def _kept(self, training_set_id: str, service_id: str, cutoffs: tuple[Cutoff, ...]) -> TrainingSetRecord | None:
        """Return the training set that is kept and need not be built, or None."""
        try:
            kept = self._store.training_set(training_set_id)
        except NotFoundError:
            return None
        if (kept.service_id, kept.cutoffs) != (service_id, cutoffs):
            name = f"trainingSets/{training_set_id}"
            raise AlreadyExistsError(f"{name} exists with another definition", metadata={"resource": name})
        return None if kept.state is State.FAILED else kept

    async def _open(
        self, service: FeatureService, labels: Sequence[LabelDefinition], asker: Asker
    ) -> dict[str, Snapshot]:
        wanted = columns_by_dataset(service, labels)
        opened = await asyncio.gather(
            *(self._snapshots.open(dataset, columns, asker) for dataset, (columns, _) in wanted.items())
        )
        return dict(zip(wanted, opened, strict=True))

    async def _build(
        self,
        record: TrainingSetRecord,
        service: FeatureService,
        labels: Sequence[LabelDefinition],
        snapshots: dict[str, Snapshot],
        held: ExitStack,
    ) -> None:
        async def work() -> None:
            key, wrapped = await self._new_key()
            await self._job_workers.run(
                lambda stop: self._write_training_set(record, service, labels, snapshots, key, wrapped, stop),
                to_end=True,
            )

        await self._carry_out(record, work(), held)

    async def _carry_out(
        self, record: TrainingSetRecord | MaterializationRecord, work: Awaitable[None], held: ExitStack
    ) -> None:
        """Do the work, which keeps its success itself, or keep why it failed."""
        with held:
            if error := await _outcome(work, record.name):
                await _keep_failure(record.name, lambda: self._store.fail(record, error))
            self._feed.notify(record.name)

    def _write_training_set(
        self,
        record: TrainingSetRecord,
        service: FeatureService,
        labels: Sequence[LabelDefinition],
        snapshots: dict[str, Snapshot],
        key: bytes,
        wrapped: bytes,
        stop: Stop,
    ) -> None:
        rows = build_training_set(service, labels, snapshots, stop, memory_limit_mib=self._memory)
        if not rows.num_rows:
            raise FailedPreconditionError("no entity has an outcome for any of the cut-offs; check times and horizons")

        is_written = False

        def keep() -> None:
            nonlocal is_written
            # File and record change together as far as an erasure can see; the gate is left while the database is away.
            with self._gate.writing() as erased:
                kept = without(rows, erased)
                # Once: who is erased from then on is taken out of the file by the erasure, which leaves the same rows.
                if not is_written:
                    self._files.write(record.training_set_id, key, wrapped, frames(kept))
                    is_written = True
                self._store.update_training_set(
                    record.training_set_id, state=State.SUCCEEDED, row_count=kept.num_rows, digest=digest(kept)
                )

        _keep_success(record.name, keep, stop)

    async def _materialize(
        self,
        record: MaterializationRecord,
        service: FeatureService,
        snapshots: dict[str, Snapshot],
        held: ExitStack,
    ) -> None:
        loop = asyncio.get_running_loop()

        def progress(entities: int) -> None:
            self._store.update_materialization(record.materialization_id, entity_count=entities)
            loop.call_soon_threadsafe(self._feed.notify, record.name)

        def write(stop: Stop) -> None:
            done = materialize(
                service,
                record.as_of_us,
                snapshots,
                self._online,
                self._gate,
                progress,
                stop,
                memory_limit_mib=self._memory,
            )

            def keep() -> None:
                self._store.update_materialization(
                    record.materialization_id,
                    state=State.SUCCEEDED,
                    entity_count=done.entities,
                    rejected_count=done.rejected,
                )

            _keep_success(record.name, keep, stop)

        await self._carry_out(record, self._job_workers.run(write, to_end=True), held)


def _keep_success(name: str, keep: Callable[[], None], stop: Stop) -> None:
    """Write until it is kept, in the thread that did the work: there the results that wait are bounded in number."""
    for pause in pauses():
        try:
            keep()
        except UnavailableError as error:
            log.warning("job_end_not_kept", job=name, reason=error.reason)
            stop.wait(pause)
            stop()
        else:
            return


async def _keep_failure(name: str, keep: Callable[[], object]) -> None:
    """Write until it is kept, whatever is in the way."""
    for pause in pauses():
        try:
            await asyncio.to_thread(keep)
        except Exception as error:
            log.warning("job_end_not_kept", job=name, error=type(error).__name__)
            await asyncio.sleep(pause)
        else:
            return


async def _outcome(work: Awaitable[None], name: str) -> str:
    """Return why the work failed, in words for the caller, or nothing when it did not."""
    try:
        await work
    except HedgerowError as error:
        log.warning("job_failed", job=name, reason=error.reason)
        return error.message
    except Exception as error:
        # The end of the line for a job's faults: the state says so, the log says where, neither quotes data.
        log.error("job_failed", job=name, error=type(error).__name__, where=fault_location(error))
        return "the features service failed; its log names the fault"
    log.info("job_ended", job=name)
    return ""


def _check_labels(labels: Sequence[LabelDefinition]) -> None:
    with PointInTime() as engine:
        for index, label in enumerate(labels):
            engine.check_label(label.contract, label.expression, field=f"training_set.cutoffs[{index}].expression")


def _tags(label: LabelDefinition) -> frozenset[str]:
    return frozenset().union(*(column.tags for column in label.contract.in_order(label.expression.columns)))
