"""Integrated Gradients against oracles: a linear model, whose attributions are known, and a rectifier network."""

from __future__ import annotations

import math
import tracemalloc

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from hedgerow.errors import CallCancelledError
from services.inference import explain

FINITE = st.floats(-100, 100, allow_nan=False)
FILL = 2.5


class LinearModel:
    """logit = rows @ weights + 1; a missing value counts as FILL."""

    def __init__(self, weights: np.ndarray) -> None:
        self.weights = weights

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return np.where(np.isnan(rows), FILL, rows) @ self.weights + 1.0

    def logits_and_gradients(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.logits(rows), np.broadcast_to(self.weights, rows.shape)


class RectifierModel(LinearModel):
    """One hidden layer of rectifiers; counts the points it is asked for at once."""

    def __init__(self, features: int = 6, hidden: int = 32) -> None:
        chance = np.random.default_rng(3)
        self.hidden = chance.normal(size=(features, hidden))
        self.bias = chance.normal(size=hidden)
        self.out = chance.normal(size=hidden)
        self.most_points = 0

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return np.maximum(rows @ self.hidden + self.bias, 0.0) @ self.out

    def logits_and_gradients(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.most_points = max(self.most_points, len(rows))
        return self.logits(rows), ((rows @ self.hidden + self.bias > 0) * self.out) @ self.hidden.T


@given(
    hnp.arrays(np.float64, (3, 4), elements=FINITE),
    hnp.arrays(np.float64, 4, elements=FINITE),
    hnp.arrays(np.float64, 4, elements=FINITE),
)
def test_linear_model_is_exact_with_one_point(rows: np.ndarray, weights: np.ndarray, baseline: np.ndarray) -> None:
    found = explain.integrated_gradients(LinearModel(weights), rows, baseline, first_pieces=1, most_points=1)
    np.testing.assert_allclose(found.values, (rows - baseline) * weights, rtol=1e-9, atol=1e-9)
    assert (found.gaps <= 1e-6).all()
    assert found.baseline_logit == pytest.approx(baseline @ weights + 1.0)


def test_gap_shrinks_with_points_and_halving_stops_at_the_tolerance() -> None:
    model, chance = RectifierModel(), np.random.default_rng(4)
    rows, baseline = chance.normal(size=(20, 6)) * 3, np.zeros(6)
    gaps = [
        explain.integrated_gradients(model, rows, baseline, first_pieces=count, most_points=count).gaps
        for count in (4, 64, 4096)
    ]
    assert gaps[1].mean() < gaps[0].mean() / 4
    assert gaps[2].mean() < gaps[0].mean() / 100
    found = explain.integrated_gradients(model, rows, baseline, first_pieces=4)
    difference = np.abs(found.logits - found.baseline_logit)
    assert (found.gaps <= explain.TOLERANCE * np.maximum(1, difference)).all()
    assert found.points.max() < 400
    np.testing.assert_allclose(
        found.values.sum(axis=1), found.logits - found.baseline_logit, atol=float(found.gaps.max()) + 1e-12
    )


def test_attributions_agree_with_a_fine_rule_feature_by_feature() -> None:
    model, chance = RectifierModel(), np.random.default_rng(7)
    rows, baseline = chance.normal(size=(5, 6)) * 3, chance.normal(size=6)
    fractions = (np.arange(100_000) + 0.5) / 100_000
    for row, values in zip(rows, explain.integrated_gradients(model, rows, baseline).values, strict=True):
        line = baseline + fractions[:, None] * (row - baseline)
        fine = model.logits_and_gradients(line)[1].mean(axis=0) * (row - baseline)
        np.testing.assert_allclose(values, fine, atol=2e-3)


class StepModel(LinearModel):
    """Rises from 0 to 1 within a ten-millionth of the first value: an even rule of any usual size misses it."""

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return np.clip((rows[:, 0] - 0.123456) * 1e7, 0.0, 1.0)

    def logits_and_gradients(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits = self.logits(rows)
        return logits, np.stack([((logits > 0) & (logits < 1)) * 1e7, np.zeros(len(rows))], axis=1)


def test_narrow_step_is_found() -> None:
    found = explain.integrated_gradients(StepModel(np.zeros(2)), np.array([[1.0, 1.0]]), np.zeros(2))
    assert found.values[0, 0] == pytest.approx(1.0, abs=1e-3)
    assert found.gaps[0] <= explain.TOLERANCE
    assert found.points[0] < 200


class JumpModel(LinearModel):
    """Jumps where it has no derivative; no number of points can attribute that, and the gap says so."""

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return (rows[:, 0] > 0.3).astype(np.float64)

    def logits_and_gradients(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.logits(rows), np.zeros_like(rows)


def test_jump_ends_and_is_reported_as_the_gap() -> None:
    """XAI-01: what cannot be attributed is stated, never a silent zero."""
    found = explain.integrated_gradients(JumpModel(np.zeros(2)), np.array([[1.0, 1.0]]), np.zeros(2))
    assert found.gaps[0] == 1.0
    assert found.points[0] < 200


@settings(deadline=None)
@given(st.integers(1, 700))
def test_chunks_do_not_change_the_result(chunk: int) -> None:
    model, chance = RectifierModel(), np.random.default_rng(5)
    rows, baseline = chance.normal(size=(5, 6)), np.ones(6)
    whole = explain.integrated_gradients(model, rows, baseline)
    chunked = explain.integrated_gradients(model, rows, baseline, chunk_points=chunk)
    np.testing.assert_allclose(chunked.values, whole.values, rtol=1e-12, atol=1e-12)
    assert chunked.points.tolist() == whole.points.tolist()


def test_memory_is_bounded_by_the_chunk() -> None:
    """XAI-03."""
    model = RectifierModel(features=64)
    rows = np.random.default_rng(6).normal(size=(256, 64))
    tracemalloc.start()
    explain.integrated_gradients(model, rows, np.zeros(64), first_pieces=512, most_points=512)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert model.most_points <= explain.CHUNK_POINTS
    assert peak < 32 << 20  # all points at once would take 64 MiB for their coordinates alone


def test_missing_values_get_what_the_model_makes_of_them() -> None:
    model = LinearModel(np.array([1.0, 2.0, 4.0, 8.0]))
    rows = np.array([[math.nan, 1.0, math.nan, 3.0]])
    found = explain.integrated_gradients(model, rows, np.array([0.0, math.nan, math.nan, 2.0]))
    np.testing.assert_allclose(found.values, [[FILL * 1.0, (1.0 - FILL) * 2.0, 0.0, 8.0]])
    assert found.gaps[0] == pytest.approx(0.0, abs=1e-12)


class BothMissingModel(LinearModel):
    """Adds 6 when the first two values are missing together, which neither does alone."""

    def logits(self, rows: np.ndarray) -> np.ndarray:
        return super().logits(rows) + 6.0 * np.isnan(rows[:, :2]).all(axis=1)


def test_joint_effect_of_missing_values_is_shared() -> None:
    rows = np.array([[math.nan, math.nan, 1.0], [0.0, math.nan, 1.0]])
    found = explain.integrated_gradients(BothMissingModel(np.array([0.0, 0.0, 1.0])), rows, np.zeros(3))
    np.testing.assert_allclose(found.values, [[3.0, 3.0, 1.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(found.gaps, 0.0, atol=1e-12)


def test_no_rows() -> None:
    found = explain.integrated_gradients(LinearModel(np.ones(2)), np.empty((0, 2)), np.zeros(2))
    assert found.values.shape == (0, 2)


def test_cancellation_stops_between_chunks() -> None:
    model, asked = RectifierModel(), []

    def cancelled() -> bool:
        asked.append(True)
        return len(asked) > 2

    with pytest.raises(CallCancelledError):
        explain.integrated_gradients(model, np.ones((4, 6)), np.zeros(6), chunk_points=10, cancelled=cancelled)
    assert len(asked) == 3


def test_reasons_are_ordered_and_in_words() -> None:
    found = explain.reasons(
        ["v.late", "v.paid", "v.limit", "v.flat"],
        ["Months with a late payment in the last six", "Share of the bill paid.", "", "Never moves"],
        np.array([4.0, math.nan, 120_000.0, 1.0]),
        np.array([0.0, 0.4567, math.nan, 1.0]),
        np.array([0.9, -1.2, 0.1, 0.0]),
        top=5,
    )
    assert [reason.feature for reason in found] == ["v.paid", "v.late", "v.limit"]
    assert [reason.text for reason in found] == [
        "Share of the bill paid: not known, where 0.457 is typical; lowers the risk",
        "Months with a late payment in the last six: 4, where 0 is typical; raises the risk",
        "v.limit: 120,000; raises the risk",
    ]
    assert math.isnan(found[0].value)
    assert found[0].baseline_value == 0.4567


def test_top_reasons_bounds_the_list() -> None:
    many = explain.reasons(["a", "b"], ["", ""], np.ones(2), np.zeros(2), np.array([1.0, 2.0]), top=1)
    assert [reason.feature for reason in many] == ["b"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (-3.0, "-3"), (1234.56, "1,235"), (0.00001234, "0.000012"), (0.5, "0.5"), (math.inf, "unbounded")],
)
def test_numbers_for_people(value: float, text: str) -> None:
    assert explain.plain(value) == text
