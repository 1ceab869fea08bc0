"""Runs the training service: ``python -m services.training``."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

from hedgerow.features.v1 import features_pb2
from libs.config import load
from libs.runtime import Runtime, run
from libs.runtime.database import open_configured
from libs.telemetry import get_logger
from services.training.config import TrainingConfig
from services.training.feature_source import FeatureSource
from services.training.migrations import MIGRATIONS
from services.training.registry import ArtifactFolder, Registry
from services.training.runs import INTERRUPTED, TrainingRuns
from services.training.service import ModelsServicer, TrainingServicer, rpc_services
from services.training.store import TrainingStore

GRANT_KEY = "signingKeys/training-grants"
log = get_logger()


def _now_us() -> int:
    return time.time_ns() // 1000


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


async def main(config: TrainingConfig) -> int:
    """Build the service, serve until told to stop, and return the exit code."""
    runtime = await Runtime.start(config)
    database = await open_configured(runtime, MIGRATIONS)
    store = TrainingStore(database)
    interrupted = await asyncio.to_thread(store.fail_interrupted, INTERRUPTED, _now_us())
    registry = Registry(store, ArtifactFolder(runtime.data_dir / "artifacts"), runtime.secrets, _now_us)
    unnamed = await asyncio.to_thread(registry.sweep)
    if interrupted or unnamed:
        log.warning("earlier_process_interrupted", runs=interrupted, artifacts=unnamed)

    features = FeatureSource(
        runtime.client("features", features_pb2.DESCRIPTOR.services_by_name["FeaturesService"]),
        max_rows=config.training_max_rows,
    )
    runs = TrainingRuns(
        store,
        features,
        registry,
        limits=config.limits(),
        waiting=config.training_waiting_runs,
        now_us=_now_us,
    )
    runs.counts.show(runtime.metrics.instruments)
    runtime.spawn(runs.work())

    async def close() -> None:
        await runs.close()
        database.close()

    runtime.on_close(close)
    training = TrainingServicer(store, runs, features, _now_us)
    models = ModelsServicer(registry, lambda payload: runtime.secrets.sign(GRANT_KEY, payload), _now)
    return await runtime.serve(rpc_services(training, models))


if __name__ == "__main__":
    configuration = load(TrainingConfig)
    run(configuration, lambda: main(configuration))
