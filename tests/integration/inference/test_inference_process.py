"""The process ``python -m services.inference``: it starts, and after kill -9 it serves again without training."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.errors import HedgerowError, UnavailableError
from hedgerow.inference.v1 import inference_pb2 as pb
from tests.integration.inference.stand_ins import Features, Keys, Models
from tests.support.authority import DOMAIN, Authority, folder
from tests.support.serving import Served, project_bundle, serving
from tests.unit.inference.small_model import FEATURES, probabilities

REPOSITORY = Path(__file__).parents[3]
ROWS = np.random.default_rng(31).normal(size=(4, FEATURES))
START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """The service as a process of its own, with the folders that the supervisor would have made."""

    def __init__(self, tmp: Path, authority: Authority, peers: dict[str, str], secrets: str) -> None:
        self.data_dir = tmp / "var"
        self.port = free_port()
        folder(self.data_dir / "identity", authority.service("inference"))
        trust = tmp / "trust"
        trust.mkdir()
        signer = Ed25519PrivateKey.generate()
        (trust / "policy-keys.json").write_text(
            json.dumps({"1": base64.b64encode(signer.public_key().public_bytes_raw()).decode()})
        )
        content = project_bundle()
        (self.data_dir / "policy").mkdir()
        envelope = {
            "content": base64.b64encode(content).decode(),
            "signature": base64.b64encode(signer.sign(content)).decode(),
            "key_version": 1,
        }
        (self.data_dir / "policy" / "bundle.json").write_text(json.dumps(envelope))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_")},
            "HEDGEROW_SERVICE": "inference",
            "HEDGEROW_LISTEN": f"127.0.0.1:{self.port}",
            "HEDGEROW_DATA_DIR": str(self.data_dir),
            "HEDGEROW_TRUST_DIR": str(trust),
            "HEDGEROW_SECRETS_ADDRESS": secrets,
            "HEDGEROW_PEERS": json.dumps(peers),
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.inference", cwd=REPOSITORY, env=self.environment,
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


async def until_answered(client: ServiceClient, method: str, request: Any) -> Any:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        try:
            return await client.call(method, request, timeout=5.0, purpose="credit_risk")
        except UnavailableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)


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
