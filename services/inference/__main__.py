"""Builds the inference service and runs it: ``python -m services.inference``."""

from __future__ import annotations

import asyncio
import os

# Before numpy is loaded: its pool of threads would spin on small matrices, and batches run in threads of our own.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

from collections.abc import Awaitable, Callable

from hedgerow.errors import HedgerowError
from hedgerow.features.v1 import features_pb2
from hedgerow.models.v1 import models_pb2
from libs.config import load
from libs.runtime import Runtime, run
from libs.runtime.database import open_configured
from libs.runtime.workers import by_workers
from libs.telemetry import get_logger
from services.inference import oip, service
from services.inference.config import InferenceConfig
from services.inference.deployment import Deployments, SealedArtifacts
from services.inference.metrics import show_models
from services.inference.model_runtime import ModelRuntime
from services.inference.registry import VersionLoader
from services.inference.store import MIGRATIONS, DeploymentTable

RETRY_SECONDS = 10.0
FOLLOW_SECONDS = 1.0
log = get_logger()


async def main(config: InferenceConfig) -> int:
    """Start, load what is deployed, serve until told to stop; return the exit code."""
    runtime = await Runtime.start(config)
    database = await open_configured(runtime, MIGRATIONS)
    models = ModelRuntime(config.limits())
    artifacts = SealedArtifacts((config.shared_dir or runtime.data_dir) / "artifacts")
    deployments = Deployments(DeploymentTable(database), artifacts, VersionLoader(models))

    async def close() -> None:
        await deployments.close()
        await asyncio.to_thread(models.close)
        await asyncio.to_thread(database.close)

    runtime.on_close(close)
    runtime.pools.extend(models.pools)
    show_models(runtime.metrics.instruments, deployments)

    # Before the port opens, so that a restart never shows a deployment that is kept as missing.
    def unwrap(wrapped: bytes) -> Awaitable[bytes]:
        return runtime.secrets.unwrap(service.KEPT_KEY, wrapped)

    await deployments.restore(unwrap, _not_loaded)
    log.info("deployments_loaded", serving=len(deployments.serving()), pending=len(deployments.pending()))
    if config.shared_dir is not None or config.workers > 1:
        deployments.share(unwrap, _not_loaded)
        runtime.spawn(_follow(deployments))
    runtime.spawn(_load_the_rest(deployments, unwrap))

    servicer = service.InferenceServicer(
        deployments,
        registry=runtime.client("training", models_pb2.DESCRIPTOR.services_by_name["ModelsService"]),
        features=runtime.client("features", features_pb2.DESCRIPTOR.services_by_name["FeaturesService"]),
        keys=runtime.secrets,
    )
    open_inference = oip.OpenInferenceServicer(
        deployments,
        stopping=lambda: runtime.stopping,
        request_rows=config.request_rows,
        default_seconds=config.default_deadline_seconds,
    )
    return await runtime.serve([service.rpc_service(servicer), oip.rpc_service(open_inference, servicer.describe)])


async def _load_the_rest(deployments: Deployments, unwrap: Callable[[bytes], Awaitable[bytes]]) -> None:
    """Try what did not load again, at a steady pace."""
    while True:
        await asyncio.sleep(RETRY_SECONDS)
        if not deployments.incomplete():
            continue
        try:
            await deployments.restore(unwrap, _not_loaded)
        except Exception as error:  # as for _follow
            log.warning("deployments_not_restored", error=type(error).__name__)


async def _follow(deployments: Deployments) -> None:
    """Serve what other replicas deploy, at most FOLLOW_SECONDS and the time to load it later."""
    while True:
        await asyncio.sleep(FOLLOW_SECONDS)
        try:
            await deployments.look()
        except Exception as error:  # the database may be away for a while; what serves goes on serving
            log.warning("deployments_not_followed", error=type(error).__name__)


def _not_loaded(deployment_id: str, error: HedgerowError) -> None:
    log.error("deployment_not_loaded", deployment=deployment_id, reason=error.reason, message=error.message)


if __name__ == "__main__":
    configuration = load(InferenceConfig)
    run(configuration, lambda: by_workers(configuration, lambda: main(configuration)))
