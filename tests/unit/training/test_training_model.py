"""The network, its encoding, its graph and its judging: one model in three forms that agree."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import FailedPreconditionError
from services.training.calibration import sigmoid
from services.training.encoding import fit_encoding
from services.training.judging import UnusableModelError, gradients_of, judge, logits_of
from services.training.network import Network, network_from, weights_of
from services.training.onnx_export import export_onnx
from services.training.recipe import Recipe, for_judging, for_ranks, open_memory, read_tensors, write_tensors
from services.training.splits import split_rows
from tests.unit.training.rows import FEATURES, training_rows, training_spec

ROWS = training_rows(800)


def network(*, heads: int = 2, dropout: float = 0.3, missing: bool = True) -> Network:
    """An untrained network, in training mode."""
    torch.manual_seed(3)
    return Network(fit_encoding(training_rows(800, missing=missing).features), (16, 8), heads=heads, dropout=dropout)


def served(onnx: bytes, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probability and logit as ONNX Runtime gives them."""
    session = onnxruntime.InferenceSession(onnx, providers=["CPUExecutionProvider"])
    probability, logit = session.run(["probability", "logit"], {"features": features})
    return probability, logit


def test_encoding_by_a_plain_loop() -> None:
    encoding = fit_encoding(ROWS.features, segments=4)
    assert 3 not in encoding.feature  # it is constant
    assert encoding.missing.tolist() == [4]
    encoded = Network(encoding, (4,)).encode(torch.from_numpy(ROWS.features[:50])).numpy()
    for row, values in zip(encoded, ROWS.features[:50], strict=True):
        for s, feature in enumerate(encoding.feature):
            value = values[feature] if not np.isnan(values[feature]) else encoding.fill[feature]
            high = encoding.low[s] + 1 / encoding.inverse_width[s]
            share = min(1.0, max(0.0, (value - encoding.low[s]) / (high - encoding.low[s])))
            assert row[s] == pytest.approx(share - encoding.mean[s], abs=1e-6)
        assert row[-1] == float(np.isnan(values[4]))


def test_encoded_training_rows_are_centred() -> None:
    encoded = Network(fit_encoding(ROWS.features), (4,)).encode(torch.from_numpy(ROWS.features)).numpy()
    assert np.abs(encoded[:, :-1].mean(axis=0)).max() < 1e-6


def test_features_that_do_not_vary_are_refused() -> None:
    with pytest.raises(FailedPreconditionError, match="no feature varies"):
        fit_encoding(np.ones((20, 3)))
    with pytest.raises(FailedPreconditionError, match="no feature varies"):
        fit_encoding(np.full((20, 3), np.nan))


@pytest.mark.parametrize("missing", [True, False])
def test_graph_equals_network(missing: bool) -> None:
    weights = weights_of(network(missing=missing)) | {"calibration": np.array([1.7, -0.4])}
    features = ROWS.features.copy()
    features[0] = np.nan
    features[1] = [1e300, -1e300, 0.0, 1e15, np.nan]
    features[2] = [np.inf, -np.inf, 5.0, 0.0, 0.0]
    expected = logits_of(network_from(weights), features)
    probability, logit = served(export_onnx(weights), features)
    assert np.isfinite(expected).all()
    assert logit.shape == probability.shape == (len(features), 1)
    assert np.abs(probability[:, 0] - sigmoid(expected)).max() < 1e-6
    assert np.abs(logit[:, 0] - expected).max() < 1e-5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=FEATURES, max_size=FEATURES))
def test_graph_takes_any_float(values: list[float]) -> None:
    weights = weights_of(network())
    features = np.array([values])
    probability, _ = served(export_onnx(weights), features)
    assert np.abs(probability[0, 0] - sigmoid(logits_of(network_from(weights), features))[0]) < 1e-6


def test_only_the_head_of_the_newest_cutoff_is_kept() -> None:
    whole_network = network(heads=3).eval()
    kept = network_from(weights_of(whole_network))
    features = torch.from_numpy(ROWS.features[:20])
    expected = whole_network.score(whole_network.encode(features))[:, 0]
    assert kept.layers[-1].out_features == 1
    assert torch.allclose(kept(features), expected.double())


def test_gradients_are_those_of_finite_differences() -> None:
    model = network().eval()
    point = ROWS.features[~np.isnan(ROWS.features).any(axis=1)][:30]
    found = gradients_of(model, point)
    for feature in (0, 2):
        # The encoding has kinks, so the step stays far below the width of a segment; the layers are float32.
        step = 1e-3 * np.maximum(np.abs(point[:, feature]), 1e-2)
        up, down = point.copy(), point.copy()
        up[:, feature] += step
        down[:, feature] -= step
        slope = (logits_of(model, up) - logits_of(model, down)) / (2 * step)
        close = np.isclose(found[:, feature], slope, rtol=0.05, atol=1e-2)
        assert close.mean() > 0.9


def test_judging_twice_gives_equal_numbers_and_leaves_the_network_alone() -> None:
    """Dropout must not act, buffers must not move, and the mode must be restored."""
    model = network(dropout=0.5).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    features = ROWS.features[:100]
    first = logits_of(model, features), gradients_of(model, features)
    second = logits_of(model, features), gradients_of(model, features)
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_judge_returns_a_calibrated_model_that_agrees_with_itself() -> None:
    splits = split_rows(ROWS, 7)
    result = judge(weights_of(network()), for_judging(splits, np.full(FEATURES, 0.1)))
    onnx = result["onnx"].tobytes()
    probability, _ = served(onnx, splits["test"].features)
    assert np.abs(probability[:, 0] - result["test"]).max() < 1e-6
    assert result["calibration"].mean() == pytest.approx(splits["calibration"].labels.mean(), abs=0.05)
    assert len(result["gate"]) == len(result["gate.attacked"]) == len(splits["gate"])
    positive = splits["gate"].labels == 1
    assert (result["gate.attacked"] <= result["gate"])[positive].all()
    assert (result["gate.attacked"] >= result["gate"])[~positive].all()
    assert (result["latencies_ms"] > 0).all()


def test_diverged_weights_are_no_model() -> None:
    weights = weights_of(network())
    weights["layers.0.bias"] = np.full_like(weights["layers.0.bias"], np.nan)
    with pytest.raises(UnusableModelError, match="diverged"):
        judge(weights, for_judging(split_rows(ROWS, 7), np.zeros(FEATURES)))


def test_the_judging_process_never_gets_the_labels_of_the_test() -> None:
    splits = split_rows(ROWS, 7)
    judging, ranks = for_judging(splits, np.zeros(FEATURES)), for_ranks(splits)
    assert "test.labels" not in judging
    assert {name.partition(".")[0] for name in ranks} == {"encoding", "train", "validation"}


def test_memory_files_round_trip() -> None:
    tensors = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2]), "empty": np.empty((0, 3))}
    descriptor = open_memory("test")
    write_tensors(descriptor, {"longer": np.zeros(1000)})
    write_tensors(descriptor, tensors)
    read = read_tensors(descriptor)
    assert set(read) == set(tensors)
    assert all(np.array_equal(read[name], tensors[name]) for name in tensors)
    write_tensors(descriptor, {})
    assert read_tensors(descriptor) == {}


def test_recipe_round_trip() -> None:
    recipe = Recipe.of(training_spec(), heads=2)
    assert Recipe.decode(recipe.encode()) == recipe
    assert dataclasses.asdict(recipe)["hidden_sizes"] == (8, 4)
