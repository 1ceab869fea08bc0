"""The features service without its network: real stores on disk, and snapshots of tables held by the test."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from hedgerow.errors import NotFoundError
from libs.sql import Database, open_database
from services.features.builds import Builds
from services.features.definitions import Definitions
from services.features.erasure import ErasureGate, SubjectEraser
from services.features.held_files import HeldFiles
from services.features.migrations import MIGRATIONS
from services.features.online_store.lmdb import LmdbOnlineStore
from services.features.online_store.sealing import Sealing
from services.features.records import State
from services.features.snapshots import Asker, Snapshot
from services.features.source import SourceContract
from services.features.store import FeaturesStore
from services.features.training_set import read_frame
from services.features.training_set_files import TrainingSetFiles
from services.features.workers import ChangeFeed, Stop, Workers

ASKER = Asker("credit_risk", "token", 5.0)
DATABASE_KEY = bytes(range(32))


@dataclass
class HeldSnapshots:
    """Datasets held by the test. `before_read` runs in the worker thread, as a fault or a pause."""

    contracts: dict[str, SourceContract]
    tables: dict[str, pa.Table]
    version: int = 1
    before_read: Callable[[Stop], None] = lambda _: None
    asked: list[tuple[str, tuple[str, ...], str]] = field(default_factory=list)

    async def contract(self, dataset: str, asker: Asker) -> SourceContract:
        """See `Snapshots`."""
        if dataset not in self.contracts:
            raise NotFoundError(f"{dataset} does not exist")
        return self.contracts[dataset]

    async def open(self, dataset: str, columns: Sequence[str], asker: Asker) -> Snapshot:
        """See `Snapshots`."""
        contract = await self.contract(dataset, asker)
        self.asked.append((dataset, tuple(columns), asker.purpose))
        rows = self.tables[dataset].select(list(columns))

        def read(stop: Stop) -> pa.Table:
            self.before_read(stop)
            return rows

        return Snapshot(contract, self.version, read)


@dataclass
class Workbench:
    """All parts, wired as `__main__` wires them."""

    snapshots: HeldSnapshots
    store: FeaturesStore
    online: LmdbOnlineStore
    files: TrainingSetFiles
    definitions: Definitions
    builds: Builds
    eraser: SubjectEraser
    feed: ChangeFeed
    keys: dict[bytes, bytes]

    async def unwrap(self, wrapped: bytes) -> bytes:
        """Return a data key."""
        return self.keys[wrapped]

    async def ended(self, training_set_id: str) -> None:
        """Wait until a training set is no longer RUNNING."""
        async with self.feed.watch(f"trainingSets/{training_set_id}") as changed:
            while self.store.training_set(training_set_id).state is State.RUNNING:
                await asyncio.wait_for(changed.wait(), 20)
                changed.clear()

    async def written(self, materialization_id: str) -> None:
        """Wait until a materialization is no longer RUNNING."""
        async with self.feed.watch(f"materializations/{materialization_id}") as changed:
            while self.store.materialization(materialization_id).state is State.RUNNING:
                await asyncio.wait_for(changed.wait(), 20)
                changed.clear()

    def rows(self, training_set_id: str) -> pa.Table:
        """Return the stored rows of a training set."""
        key = self.keys[self.files.wrapped_key(training_set_id)]
        return pa.concat_tables(read_frame(frame) for frame in self.files.read(training_set_id, key))


def open_store(folder: Path) -> tuple[Database, FeaturesStore]:
    """Open the database of the service."""
    database = open_database(folder / "features.db", DATABASE_KEY, MIGRATIONS)
    return database, FeaturesStore(database)


@asynccontextmanager
async def workbench(folder: Path, snapshots: HeldSnapshots, *, max_jobs: int = 4) -> AsyncIterator[Workbench]:
    """Yield the parts; close them at the end."""
    database, store = await asyncio.to_thread(open_store, folder)
    online = LmdbOnlineStore(folder / "online", Sealing(bytes(range(32))), map_size_mib=64)
    files = TrainingSetFiles(folder / "training-sets")
    keys: dict[bytes, bytes] = {}

    async def new_key() -> tuple[bytes, bytes]:
        key, wrapped = secrets.token_bytes(32), secrets.token_bytes(16)
        keys[wrapped] = key
        return key, wrapped

    async def unwrap(wrapped: bytes) -> bytes:
        return keys[wrapped]

    gate, feed, definitions = ErasureGate(), ChangeFeed(), Definitions(store)
    builds = Builds(
        store=store,
        definitions=definitions,
        snapshots=snapshots,
        online=online,
        files=files,
        gate=gate,
        new_key=new_key,
        feed=feed,
        running=HeldFiles(folder / "running"),
        job_workers=Workers("jobs", threads=1, waiting=max_jobs),
        read_workers=Workers("reads", threads=1, waiting=2),
        max_jobs=max_jobs,
        memory_limit_mib=256,
    )
    eraser = SubjectEraser(gate=gate, store=store, online=online, files=files, unwrap=unwrap, new_key=new_key)
    try:
        yield Workbench(snapshots, store, online, files, definitions, builds, eraser, feed, keys)
    finally:
        await builds.close()
        await asyncio.to_thread(online.close)
        database.close()
