"""Erases a subject from everything the features service keeps, also from what is just being computed.

A job that opened its snapshot before the erasure still holds the subject's rows. So each erased subject is remembered
while any job runs, and a job leaves remembered subjects out of whatever it writes, under a lock that the erasure takes
too: a write either ends before the erasure starts to search, or it already leaves the subject out.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from hedgerow.errors import NotFoundError
from services.features.online_store import OnlineStore
from services.features.store import FeaturesStore
from services.features.training_set import digest, frames, read_frame
from services.features.training_set_files import TrainingSetFiles

Unwrap = Callable[[bytes], Awaitable[bytes]]
NewKey = Callable[[], Awaitable[tuple[bytes, bytes]]]


@dataclass(slots=True)
class StoreReport:
    """What was done in one store; the fields of `StoreErasure`."""

    store: str
    objects_searched: int = 0
    objects_rewritten: int = 0
    objects_destroyed: int = 0
    rows_erased: int = 0
    remaining_hits: int = 0


class ErasureGate:
    """Keeps running jobs from bringing an erased subject back."""

    def __init__(self) -> None:
        # Held for the length of a write, so never taken on the event loop.
        self._write_lock = threading.Lock()
        # Held for moments: guards what follows.
        self._lock = threading.Lock()
        self._erased: set[str] = set()
        self._jobs = 0
        # Two erasures that rewrite one file at once would each bring back the other's subject.
        self._one_at_a_time = asyncio.Lock()

    @contextlib.asynccontextmanager
    async def erasing(self) -> AsyncIterator[None]:
        """Hold for the length of an erasure; waits for its turn."""
        async with self._one_at_a_time:
            yield

    @contextlib.contextmanager
    def job(self) -> Iterator[None]:
        """Hold open from before a job's snapshot is opened until its last write."""
        with self._lock:
            self._jobs += 1
        try:
            yield
        finally:
            with self._lock:
                self._jobs -= 1
                if not self._jobs:
                    self._erased.clear()

    @contextlib.contextmanager
    def writing(self) -> Iterator[frozenset[str]]:
        """Yield the entities to leave out of the write made inside. Blocks while another write or erasure has its turn."""
        with self._write_lock:
            with self._lock:
                erased = frozenset(self._erased)
            yield erased

    def close_to(self, entity: str) -> None:
        """Wait for the write in progress, and let none that starts after this return hold the entity."""
        with self._write_lock, self._lock:
            if self._jobs:
                self._erased.add(entity)


def without(rows: pa.Table, entities: frozenset[str]) -> pa.Table:
    """Return rows of a training set without those of some entities."""
    if not entities:
        return rows
    return rows.filter(pc.invert(pc.is_in(rows.column("entity"), pa.array(sorted(entities), pa.string()))))


class SubjectEraser:
    """Erases one subject at a time."""

    def __init__(
        self,
        *,
        gate: ErasureGate,
        store: FeaturesStore,
        online: OnlineStore,
        files: TrainingSetFiles,
        unwrap: Unwrap,
        new_key: NewKey,
    ) -> None:
        """Take the stores.

        Args:
            unwrap: returns the data key of a training set file from its wrapped form.
            new_key: returns a fresh data key and its wrapped form.
        """
        self._gate = gate
        self._store = store
        self._online = online
        self._files = files
        self._unwrap = unwrap
        self._new_key = new_key

    async def erase(self, pseudonym: str) -> list[StoreReport]:
        """Erase a subject and search what remains. Idempotent.

        Raises:
            HedgerowError: a key is not to be had, or a file does not authenticate; erase again when that is mended.
        """
        async with self._gate.erasing():
            await asyncio.to_thread(self._gate.close_to, pseudonym)
            return [await self._erase_online(pseudonym), await self._erase_training_sets(pseudonym)]

    async def _erase_online(self, pseudonym: str) -> StoreReport:
        view_ids = await asyncio.to_thread(self._store.view_ids)
        erased = await asyncio.to_thread(self._online.erase, view_ids, pseudonym)
        return StoreReport(
            "onlineStore",
            objects_searched=erased.objects_searched,
            objects_rewritten=erased.objects_rewritten,
            rows_erased=erased.values,
            remaining_hits=erased.remaining,
        )

    async def _erase_training_sets(self, pseudonym: str) -> StoreReport:
        report = StoreReport("trainingSets")
        for training_set_id in await asyncio.to_thread(self._files.ids):
            key = await self._unwrap(await asyncio.to_thread(self._files.wrapped_key, training_set_id))
            kept, hits = await asyncio.to_thread(self._split, training_set_id, key, pseudonym)
            if hits:
                key, wrapped = await self._new_key()
                await asyncio.to_thread(self._files.write, training_set_id, key, wrapped, frames(kept))
                report.objects_rewritten += 1
                report.rows_erased += hits
                _, hits = await asyncio.to_thread(self._split, training_set_id, key, pseudonym)
            await asyncio.to_thread(self._record, training_set_id, kept)
            report.remaining_hits += hits
            report.objects_searched += 1
        return report

    def _split(self, training_set_id: str, key: bytes, pseudonym: str) -> tuple[pa.Table, int]:
        """Return the rows of a file without the subject's, and how many those are."""
        rows = pa.concat_tables(read_frame(frame) for frame in self._files.read(training_set_id, key))
        kept = without(rows, frozenset({pseudonym}))
        return kept, rows.num_rows - kept.num_rows

    def _record(self, training_set_id: str, rows: pa.Table) -> None:
        """Make the recorded digest that of the rows, also after a crash between rewrite and record."""
        try:
            recorded = self._store.training_set(training_set_id)
        except NotFoundError:
            return
        if recorded.row_count != rows.num_rows and recorded.digest:
            self._store.update_training_set(training_set_id, row_count=rows.num_rows, digest=digest(rows))
