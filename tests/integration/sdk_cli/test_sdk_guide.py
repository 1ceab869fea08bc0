"""The Python of the SDK guide runs as it stands."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path

import pytest

from hedgerow.inference.v1 import inference_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.sdk import Context
from tests.integration.sdk.mirror import mirrored
from tests.support.authority import folder

ROOT = Path(__file__).parents[3]
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "guide" / "sdk.md").read_text(), re.DOTALL)
PRINTED = ["[0.25]\n", "['models/m']\n", 'deployments/d models/m/versions/1\n[name: "models/m"\n]\n']


@pytest.mark.parametrize(("block", "printed"), list(zip(BLOCKS, PRINTED, strict=True)))
async def test_a_block_of_the_guide_runs(block: str, printed: str, tmp_path: Path) -> None:
    async with mirrored(tmp_path / "suite") as suite:
        deployment = inference_pb2.Deployment(name="deployments/d", model_version="models/m/versions/1")
        suite.mirror.answers = {
            "PredictEntities": [inference_pb2.PredictEntitiesResponse(predictions=[{"probability": 0.25}])],
            "ListDeployments": [inference_pb2.ListDeploymentsResponse(deployments=[deployment])],
            "ListModels": [models_pb2.ListModelsResponse(models=[{"name": "models/m"}])],
        }
        context = Context(tmp_path / "context", suite.addresses, "127.0.0.1:1")
        context.save(suite.authority.roots_pem)
        # The mirror asks whether the caller may read a dataset, which ana may.
        folder(context.identity("creditapp").folder, suite.authority.user("ana"))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-c", block),
            env=os.environ | {"PYTHONPATH": str(ROOT), "HEDGEROW_CONTEXT": str(context.folder)},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(120):
            out, err = await process.communicate()
    assert (process.returncode, out.decode(), err.decode()) == (0, printed, "")
