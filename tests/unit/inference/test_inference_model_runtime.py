"""Loading, checking and running a graph, and explaining it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from hedgerow.errors import CallCancelledError, FailedPreconditionError, ResourceExhaustedError
from services.inference.batching import BatchLimits
from services.inference.model_runtime import ModelRuntime, RuntimeLimits
from tests.unit.inference.small_model import FEATURES, manifest, onnx_bytes, probabilities

FAR = float("inf")


@pytest.fixture
def runtime() -> Iterator[ModelRuntime]:
    runtime = ModelRuntime(RuntimeLimits(BatchLimits(), explain_waiting=2))
    yield runtime
    runtime.close()


def some_rows(count: int) -> np.ndarray:
    rows = np.random.default_rng(2).normal(size=(count, FEATURES)) * 3
    rows[::3, 1] = np.nan
    return rows


async def test_predictions_equal_the_oracle(runtime: ModelRuntime) -> None:
    model = await runtime.load(manifest(), onnx_bytes())
    rows = some_rows(50)
    rows.flags.writeable = False
    answer = await model.predict(rows, expires_at=FAR)
    assert answer.dtype == np.float64
    np.testing.assert_allclose(answer[:, 0], probabilities(rows), atol=1e-6)
    one_by_one = [await model.predict(rows[i : i + 1], expires_at=FAR) for i in range(10)]
    np.testing.assert_allclose(np.concatenate(one_by_one), answer[:10], atol=1e-7)


async def test_empty_batch_answers_without_rows(runtime: ModelRuntime) -> None:
    model = await runtime.load(manifest(), onnx_bytes())
    assert (await model.predict(np.empty((0, FEATURES)), expires_at=FAR)).shape == (0, 1)


async def test_tensors_of_a_model(runtime: ModelRuntime) -> None:
    model = await runtime.load(manifest(), onnx_bytes())
    assert [(spec.name, spec.datatype, spec.shape) for spec in (*model.inputs, *model.outputs)] == [
        ("features", "FP64", (-1, FEATURES)),
        ("probability", "FP64", (-1, 1)),
    ]


async def test_explanation_agrees_with_the_prediction_and_is_complete(runtime: ModelRuntime) -> None:
    model = await runtime.load(manifest(), onnx_bytes())
    rows = some_rows(12)
    found = await model.explain(rows, seconds=60.0)
    served = (await model.predict(rows, expires_at=FAR))[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-found.logits)), served, atol=1e-6)
    difference = found.logits - found.baseline_logit
    assert (found.gaps <= 1e-3 * np.maximum(1, np.abs(difference))).all()
    np.testing.assert_allclose(np.abs(found.values.sum(axis=1) - difference), found.gaps, atol=1e-12)


async def test_explanation_stops_when_its_time_is_up(runtime: ModelRuntime) -> None:
    model = await runtime.load(manifest(), onnx_bytes())
    with pytest.raises(CallCancelledError):
        await model.explain(some_rows(4), seconds=-1.0)


async def test_explanations_are_bounded(runtime: ModelRuntime) -> None:
    model = await runtime.load(manifest(), onnx_bytes())
    calls = [asyncio.create_task(model.explain(some_rows(30), seconds=60.0)) for _ in range(3)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result) for result in results].count(ResourceExhaustedError) == 1
    assert (await model.explain(some_rows(1), seconds=60.0)).values.shape == (1, FEATURES)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (b"no graph at all", "does not load"),
        (onnx_bytes(output="score"), "no output probability"),
        (onnx_bytes(last="Cos"), "not probabilities"),
        (onnx_bytes(last="Tanh"), "not probabilities"),
        (onnx_bytes(calibrated=False), "would not agree"),
    ],
)
async def test_graph_that_breaks_its_contract_is_refused(runtime: ModelRuntime, model: bytes, why: str) -> None:
    with pytest.raises(FailedPreconditionError, match=why):
        await runtime.load(manifest(), model)


async def test_graph_of_another_width_is_refused(runtime: ModelRuntime) -> None:
    narrow = manifest(feature_names=("a",), feature_descriptions=("",), baseline=(0.0,))
    with pytest.raises(FailedPreconditionError, match="rows of 1 features"):
        await runtime.load(narrow, onnx_bytes())
