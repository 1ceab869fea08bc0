"""Each model that serves shows its work, and none that a caller made up."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from libs.telemetry.instruments import Instruments
from services.inference.batching import Batcher, BatchLimits
from services.inference.metrics import show_models

LABELS = {"deployment": "credit", "version": "3"}


def deployed(batcher: Batcher) -> Any:
    record = SimpleNamespace(deployment_id="credit", version="3")
    return SimpleNamespace(record=record, model=SimpleNamespace(batcher=batcher))


async def test_predictions_batches_and_waits() -> None:
    registry = CollectorRegistry()
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(lambda rows: rows[:, :1], executor, BatchLimits())
        serving = [deployed(batcher)]
        show_models(Instruments(registry), SimpleNamespace(serving=lambda: serving, pending=lambda: ["health"]))
        expires = asyncio.get_running_loop().time() + 60
        for count in (1, 3, 3):
            await batcher.submit(np.ones((count, 2)), expires_at=expires)
        await batcher.close()

    def value(name: str, **more: str) -> float | None:
        return registry.get_sample_value(f"hedgerow_model_{name}", LABELS | more)

    assert (value("predictions_total"), value("requests_total"), value("failures_total")) == (7, 3, 0)
    assert (value("batch_rows_bucket", le="1.0"), value("batch_rows_bucket", le="4.0")) == (1, 3)
    assert (value("batch_rows_sum"), value("queue_seconds_count"), value("waiting")) == (7, 3, 0)
    busy = value("busy_seconds_total")
    assert busy is not None
    assert busy > 0
    assert registry.get_sample_value("hedgerow_deployments_pending") == 1
    serving.clear()
    assert value("predictions_total") is None
