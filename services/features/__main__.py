"""Runs the features service: `python -m services.features`."""

from __future__ import annotations

import asyncio

from hedgerow.ingestion.v1 import ingestion_pb2
from libs.config import load
from libs.lake import LakeStorage
from libs.runtime import Runtime, run
from libs.runtime.database import open_configured
from libs.runtime.workers import by_workers
from libs.telemetry import get_logger
from services.features.access import Describer
from services.features.builds import INTERRUPTED, Builds
from services.features.config import FeaturesConfig
from services.features.definitions import Definitions
from services.features.erasure import ErasureGate, SubjectEraser
from services.features.held_files import HeldFiles
from services.features.metrics import show_freshness
from services.features.migrations import MIGRATIONS
from services.features.online_store import OnlineStore
from services.features.online_store.lmdb import LmdbOnlineStore
from services.features.online_store.sealing import Sealing
from services.features.online_store.valkey import ValkeyOnlineStore
from services.features.online_store.valkey_address import parse_address
from services.features.pseudonyms import Pseudonyms
from services.features.service import INLINE_READS, FeaturesServicer, rpc_service
from services.features.shared_gate import SharedErasureGate
from services.features.shared_key import shared_data_key
from services.features.snapshots import IngestionSnapshots
from services.features.store import FeaturesStore
from services.features.training_set_files import TrainingSetFiles
from services.features.workers import ChangeFeed, Workers

TRAINING_SETS_KEY = "keys/features-trainingsets"
ONLINE_KEY = "keys/features-online"
ERASURES_KEY = "keys/features-erasures"
POLL_SECONDS = 1.0
ABANDONED_SECONDS = 5.0
log = get_logger()


async def main(config: FeaturesConfig) -> int:
    """Build the service, serve until told to stop, and return the exit code."""
    runtime = await Runtime.start(config)
    store = await _store(runtime, config)
    online = await _online_store(runtime, config)
    folder = config.shared_dir or runtime.data_dir
    files = TrainingSetFiles(folder / "training-sets")
    definitions = Definitions(store)
    ingestion = runtime.client("ingestion", ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"])
    snapshots = IngestionSnapshots(
        ingestion, unwrap=runtime.secrets.unwrap, wait=runtime.wait, storage=LakeStorage.of(config)
    )
    gate, feed = await _gate(runtime, config), ChangeFeed()

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
        running=HeldFiles(folder / "running"),
        job_workers=Workers("jobs", threads=config.features_job_threads, waiting=config.features_max_jobs),
        read_workers=Workers("reads", threads=config.features_read_threads, waiting=config.features_waiting_reads),
        max_jobs=config.features_max_jobs,
        memory_limit_mib=config.features_memory_limit_mib,
    )
    runtime.on_close(builds.close)
    runtime.spawn(_fail_abandoned(builds))
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
        poll_seconds=POLL_SECONDS if config.shared_dir else None,
        # What goes over the network must not hold up the event loop.
        inline_reads=0 if config.online_url else INLINE_READS,
    )
    servicer.reads.show(runtime.metrics.instruments)
    show_freshness(runtime.metrics.instruments, store)
    return await runtime.serve([rpc_service(servicer, Describer(store, definitions))])


async def _store(runtime: Runtime, config: FeaturesConfig) -> FeaturesStore:
    """Open the database; what an earlier process of the only replica did not live to end is marked FAILED."""
    database = await open_configured(runtime, MIGRATIONS)
    runtime.on_close(lambda: asyncio.to_thread(database.close))
    store = FeaturesStore(database)
    interrupted = 0 if config.shared_dir else await asyncio.to_thread(store.fail_interrupted, INTERRUPTED)
    if interrupted:
        log.warning("jobs_interrupted", count=interrupted)
    return store


async def _gate(runtime: Runtime, config: FeaturesConfig) -> ErasureGate:
    """Return the gate of this process, or that of all replicas."""
    if config.shared_dir is None:
        return ErasureGate()
    folder = config.shared_dir / "erasures"
    return SharedErasureGate(folder, await shared_data_key(runtime.secrets, ERASURES_KEY, folder / "key.wrapped"))


async def _fail_abandoned(builds: Builds) -> None:
    """Mark the jobs of replicas that died as FAILED, now and then, whether those come back or not."""
    while True:
        try:
            if count := await builds.fail_abandoned():
                log.warning("jobs_interrupted", count=count)
        except Exception as error:  # the database may be away for a while
            log.warning("jobs_not_checked", error=type(error).__name__)
        await asyncio.sleep(ABANDONED_SECONDS)


async def _online_store(runtime: Runtime, config: FeaturesConfig) -> OnlineStore:
    online: OnlineStore
    if config.online_url:
        address = parse_address(config.online_url, config.online_password_file)
        online = await asyncio.to_thread(ValkeyOnlineStore, address, Sealing(await _online_key(runtime, config)))
    else:
        sealing = Sealing(await runtime.data_key("online"))
        folder = runtime.data_dir / "online"
        online = await asyncio.to_thread(LmdbOnlineStore, folder, sealing, map_size_mib=config.features_online_size_mib)
    runtime.on_close(lambda: asyncio.to_thread(online.close))
    return online


async def _online_key(runtime: Runtime, config: FeaturesConfig) -> bytes:
    """Return the key of this process, or that of all replicas."""
    if config.shared_dir is None:
        return await runtime.data_key("online")
    return await shared_data_key(runtime.secrets, ONLINE_KEY, config.shared_dir / "online.wrapped")


if __name__ == "__main__":
    configuration = load(FeaturesConfig)
    run(configuration, lambda: by_workers(configuration, lambda: main(configuration)))
