"""``HEDGEROW_WORKERS`` for features: several workers on the stores of replicas, and a plain refusal on embedded ones."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from pydantic import ValidationError

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.features.v1 import features_pb2 as pb
from libs.telemetry.cells import CellsOfWorkers
from services.features.config import FeaturesConfig
from suite.backing.postgres import Postgres
from suite.backing.valkey import Valkey
from tests.integration.inference.stand_ins import Keys
from tests.support.authority import DOMAIN, Authority, folder
from tests.support.backing import postgres, valkey
from tests.support.service_process import Process, free_port, until_answered
from tests.support.serving import serving

__all__ = ["postgres", "valkey"]
PATIENCE_SECONDS = 90.0
CONNECTIONS = 32
METHOD = "/hedgerow.features.v1.FeaturesService/ListFeatureViews"


def answered(counted: Path) -> dict[str, float]:
    """Return how many calls each worker has answered."""
    return {
        row.worker: row.values[0]
        for row in CellsOfWorkers(counted).rows()
        if row.key == ("hedgerow_rpc_handled", METHOD, "OK")
    }


async def test_two_workers_share_the_stores_of_replicas(tmp_path: Path, postgres: Postgres, valkey: Valkey) -> None:
    authority, called = Authority(), 0
    async with AsyncExitStack() as stack:
        secrets = await stack.enter_async_context(
            serving(tmp_path / "secrets", [Keys().service()], name="secrets", authority=authority)
        )
        process = Process(
            tmp_path, authority, {"governance": f"127.0.0.1:{free_port()}", "ingestion": f"127.0.0.1:{free_port()}"},
            secrets.target,
            service="features", HEDGEROW_WORKERS="2", HEDGEROW_SHARED_DIR=str(tmp_path / "shared"),
            HEDGEROW_LAKE_LOCATION=str(tmp_path / "lake"),
            **postgres.service_environment("features"), **valkey.service_environment("features"),
        )  # fmt: skip

        def client() -> ServiceClient:
            kept = folder(tmp_path / "ana", authority.user("ana"))
            channel = RotatingChannel(f"127.0.0.1:{process.port}", f"features.{DOMAIN}", kept)
            stack.push_async_callback(channel.close)
            return ServiceClient(channel, pb.DESCRIPTOR.services_by_name["FeaturesService"])

        await process.start()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while len(answered(process.data_dir / "workers")) < 2:
                    await until_answered(client(), "ListFeatureViews", pb.ListFeatureViewsRequest())
                    called += 1
            for _ in range(CONNECTIONS):
                await until_answered(client(), "ListFeatureViews", pb.ListFeatureViewsRequest())
                called += 1
            assert sum(answered(process.data_dir / "workers").values()) == called
            assert await process.end(signal.SIGTERM) == 0
        finally:
            await process.end(signal.SIGKILL)


def test_embedded_stores_take_one_worker(tmp_path: Path) -> None:
    settings = {"listen": "127.0.0.1:0", "data_dir": tmp_path, "trust_dir": tmp_path}
    assert FeaturesConfig(**settings).workers == 1
    with pytest.raises(ValidationError, match="stores of replicas"):
        FeaturesConfig(**settings, workers=2)


def test_workers_are_bounded_by_the_machine(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="two for each processor"):
        FeaturesConfig(listen="127.0.0.1:0", data_dir=tmp_path, trust_dir=tmp_path, workers=4096)
