"""Runs the features service: `python -m services.features`."""

from __future__ import annotations

import asyncio

from hedgerow.ingestion.v1 import ingestion_pb2
from libs.config import load
from libs.runtime import Runtime, run
from libs.sql import open_database
from libs.telemetry import get_logger
from services.features.access import Describer
from services.features.builds import Builds
from services.features.config import FeaturesConfig
from services.features.definitions import Definitions
from services.features.erasure import ErasureGate, SubjectEraser
from services.features.migrations import MIGRATIONS
from services.features.online_store import OnlineStore
from services.features.online_store.lmdb import LmdbOnlineStore
from services.features.online_store.sealing import Sealing
from services.features.pseudonyms import Pseudonyms
from services.features.service import FeaturesServicer, rpc_service
from services.features.snapshots import IngestionSnapshots
from services.features.store import FeaturesStore
from services.features.training_set_files import TrainingSetFiles
from services.features.workers import ChangeFeed, Workers

TRAINING_SETS_KEY = "keys/features-trainingsets"
INTERRUPTED = "the features service stopped before it was done; ask for it again"
log = get_logger()


async def main(config: FeaturesConfig) -> int:
    """Build the service, serve until told to stop, and return the exit code."""
    runtime = await Runtime.start(config)
    store = await _store(runtime)
    online = await _online_store(runtime, config)
    files = TrainingSetFiles(runtime.data_dir / "training-sets")
    definitions = Definitions(store)
    ingestion = runtime.client("ingestion", ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"])
    snapshots = IngestionSnapshots(ingestion, unwrap=runtime.secrets.unwrap, wait=runtime.wait)
    gate, feed = ErasureGate(), ChangeFeed()

    async def unwrap(wrapped: bytes) -> bytes:
        return await runtime.secrets.unwrap(TRAINING_SETS_KEY, wrapped)

    async def new_key() -> tuple[bytes, bytes]:
        return await runtime.secrets.create_data_key(TRAINING_SETS_KEY)

    builds = Builds(
        store=store,
        definitions=definitions,
        snapshots=snapshots,
        online=online,
        files=files,
        gate=gate,
        new_key=new_key,
        feed=feed,
        job_workers=Workers("jobs", threads=config.features_job_threads, waiting=config.features_max_jobs),
        read_workers=Workers("reads", threads=config.features_read_threads, waiting=config.features_waiting_reads),
        max_jobs=config.features_max_jobs,
        memory_limit_mib=config.features_memory_limit_mib,
    )
    runtime.on_close(builds.close)
    servicer = FeaturesServicer(
        store=store,
        definitions=definitions,
        snapshots=snapshots,
        builds=builds,
        online=online,
        files=files,
        unwrap=unwrap,
        eraser=SubjectEraser(gate=gate, store=store, online=online, files=files, unwrap=unwrap, new_key=new_key),
        pseudonyms=Pseudonyms(runtime.secrets.pseudonym_key),
        feed=feed,
    )
    return await runtime.serve([rpc_service(servicer, Describer(store, definitions))])


async def _store(runtime: Runtime) -> FeaturesStore:
    """Open the database; what an earlier process did not live to end is marked FAILED."""
    key = await runtime.data_key("sql")
    database = await asyncio.to_thread(open_database, runtime.sql_path(), key, MIGRATIONS)
    runtime.on_close(lambda: asyncio.to_thread(database.close))
    store = FeaturesStore(database)
    interrupted = await asyncio.to_thread(store.fail_interrupted, INTERRUPTED)
    if interrupted:
        log.warning("jobs_interrupted", count=interrupted)
    return store


async def _online_store(runtime: Runtime, config: FeaturesConfig) -> OnlineStore:
    sealing = Sealing(await runtime.data_key("online"))
    folder = runtime.data_dir / "online"
    online = await asyncio.to_thread(LmdbOnlineStore, folder, sealing, map_size_mib=config.features_online_size_mib)
    runtime.on_close(lambda: asyncio.to_thread(online.close))
    return online


if __name__ == "__main__":
    configuration = load(FeaturesConfig)
    run(configuration, lambda: main(configuration))
