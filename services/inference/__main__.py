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
from libs.sql import open_database
from libs.telemetry import get_logger
from services.inference import oip, service
from services.inference.config import InferenceConfig
from services.inference.deployment import Deployments, SealedArtifacts
from services.inference.model_runtime import ModelRuntime
from services.inference.registry import VersionLoader
from services.inference.store import MIGRATIONS, DeploymentTable

RETRY_SECONDS = 10.0
log = get_logger()


async def main(config: InferenceConfig) -> int:
    """Start, load what is deployed, serve until told to stop; return the exit code."""
    runtime = await Runtime.start(config)
    database = await asyncio.to_thread(open_database, runtime.sql_path(), await runtime.data_key("sql"), MIGRATIONS)
    models = ModelRuntime(config.limits())
    deployments = Deployments(
        DeploymentTable(database), SealedArtifacts(runtime.data_dir / "artifacts"), VersionLoader(models)
    )

    async def close() -> None:
        await deployments.close()
        await asyncio.to_thread(models.close)
        await asyncio.to_thread(database.close)

    runtime.on_close(close)

    # Before the port opens, so that a restart never shows a deployment that is kept as missing.
    def unwrap(wrapped: bytes) -> Awaitable[bytes]:
        return runtime.secrets.unwrap(service.KEPT_KEY, wrapped)

    await deployments.restore(unwrap, _not_loaded)
    log.info("deployments_loaded", serving=len(deployments.serving()), pending=len(deployments.pending()))
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
    """Try what did not load at start-up again, at a steady pace, until nothing is left."""
    while deployments.pending():
        await asyncio.sleep(RETRY_SECONDS)
        await deployments.restore(unwrap, _not_loaded)


def _not_loaded(deployment_id: str, error: HedgerowError) -> None:
    log.error("deployment_not_loaded", deployment=deployment_id, reason=error.reason, message=error.message)


if __name__ == "__main__":
    configuration = load(InferenceConfig)
    run(configuration, lambda: main(configuration))
