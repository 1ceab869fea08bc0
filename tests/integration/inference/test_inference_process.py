"""The process ``python -m services.inference``: it starts, and after kill -9 it serves again without training."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.errors import HedgerowError
from hedgerow.inference.v1 import inference_pb2 as pb
from tests.integration.inference.stand_ins import Features, Keys, Models
from tests.support.authority import DOMAIN, Authority, folder
from tests.support.service_process import Process, free_port, until_answered
from tests.support.serving import Served, serving
from tests.unit.inference.small_model import FEATURES, probabilities

ROWS = np.random.default_rng(31).normal(size=(4, FEATURES))


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as opened:
        yield opened


async def test_killed_process_serves_again_without_training(tmp_path: Path, stack: AsyncExitStack) -> None:
    authority = Authority()

    async def stood_in(name: str, servicer: Any, on: AsyncExitStack) -> Served:
        return await on.enter_async_context(
            serving(tmp_path / name, [servicer.service()], name=name, authority=authority)
        )

    features = await stood_in("features", Features(ROWS), stack)
    secrets = await stood_in("secrets", Keys(), stack)
    training_stack = await stack.enter_async_context(AsyncExitStack())
    training = await stood_in("training", Models(), training_stack)
    peers = {"features": features.target, "training": training.target, "governance": f"127.0.0.1:{free_port()}"}
    process = Process(tmp_path, authority, peers, secrets.target)

    def client(user: str) -> ServiceClient:
        kept = folder(tmp_path / f"user-{user}", authority.user(user))
        channel = RotatingChannel(f"127.0.0.1:{process.port}", f"inference.{DOMAIN}", kept)
        stack.push_async_callback(channel.close)
        return ServiceClient(channel, pb.DESCRIPTOR.services_by_name["InferenceService"])

    await process.start()
    try:
        create = pb.CreateDeploymentRequest(deployment_id="credit", model_version="models/credit/versions/2")
        deployed = await until_answered(client("ben"), "CreateDeployment", create)
        assert await process.end(signal.SIGKILL) == -signal.SIGKILL
        await training_stack.aclose()

        await process.start()
        predict = pb.PredictEntitiesRequest(deployment="deployments/credit", entity_keys=["c1"])
        answer = await until_answered(client("creditapp"), "PredictEntities", predict)
        assert answer.model_version == deployed.model_version
        assert answer.predictions[0].probability == pytest.approx(probabilities(ROWS[1:2], 2)[0], abs=1e-6)
        got = await client("ana").call("GetDeployment", pb.GetDeploymentRequest(name="deployments/credit"))
        assert got == deployed
        with pytest.raises(HedgerowError) as caught:
            await client("ben").call("CreateDeployment", create, timeout=2.0)
        assert caught.value.code_name in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
        assert await process.end(signal.SIGTERM) == 0
    finally:
        if process.process is not None:
            await process.end(signal.SIGKILL)
    kept = [path for path in (process.data_dir / "data").rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} >= {".db", ".sealed"}
    for path in kept:
        assert b"view.feature_1" not in path.read_bytes(), path
        assert path.stat().st_mode & 0o077 == 0, path
