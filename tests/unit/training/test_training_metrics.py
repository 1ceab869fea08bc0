"""AUC, ROC and calibration error against plain loops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.training.calibration import fit_platt, sigmoid
from services.training.metrics import auc, expected_calibration_error, reliability, roc_curve


@st.composite
def predictions(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels with both classes, and scores with ties."""
    count = draw(st.integers(2, 60))
    labels = np.array(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)), dtype=np.float32)
    labels[:2] = 0, 1
    scores = np.array(draw(st.lists(st.integers(0, 20), min_size=count, max_size=count))) / 20.0
    return labels, scores


@settings(deadline=None)
@given(predictions())
def test_auc_is_the_share_of_pairs_in_order(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    won = pairs = 0.0
    for i in range(len(labels)):
        for j in range(len(labels)):
            if labels[i] == 1 and labels[j] == 0:
                pairs += 1
                won += 1.0 if scores[i] > scores[j] else 0.5 if scores[i] == scores[j] else 0.0
    assert auc(labels, scores) == pytest.approx(won / pairs, abs=1e-12)


@settings(deadline=None)
@given(predictions())
def test_the_area_under_the_roc_curve_is_the_auc(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    curve = roc_curve(labels, scores, points=10_000)
    assert curve[0] == (0.0, 0.0)
    assert curve[-1] == (1.0, 1.0)
    area = sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(curve))
    assert area == pytest.approx(auc(labels, scores), abs=1e-9)


@settings(deadline=None)
@given(predictions(), st.integers(1, 20))
def test_calibration_error_by_a_plain_loop(case: tuple[np.ndarray, np.ndarray], bins: int) -> None:
    labels, scores = case
    ordered = sorted(range(len(scores)), key=lambda i: scores[i])
    # A row counts with the positive share of all rows of its score.
    alike = {score: [float(labels[i]) for i in ordered if scores[i] == score] for score in set(scores.tolist())}
    share = {score: sum(found) / len(found) for score, found in alike.items()}
    count = min(bins, len(ordered))
    sizes = [len(ordered) // count + (1 if b < len(ordered) % count else 0) for b in range(count)]
    expected, start = 0.0, 0
    for size in sizes:
        part = ordered[start : start + size]
        start += size
        expected += abs(sum(scores[i] for i in part) - sum(share[scores[i]] for i in part))
    assert expected_calibration_error(labels, scores, bins) == pytest.approx(expected / len(ordered), abs=1e-12)


def test_bins_have_equal_mass() -> None:
    table = reliability(np.zeros(100), np.linspace(0, 1, 100), 15)
    assert [row.count for row in table] == [7] * 10 + [6] * 5


def test_auc_needs_both_classes_and_finite_scores() -> None:
    with pytest.raises(ValueError, match="both classes"):
        auc(np.ones(3), np.arange(3.0))
    with pytest.raises(ValueError, match="finite"):
        auc(np.array([0, 1]), np.array([0.0, np.nan]))


def test_calibration_recovers_a_stretched_logit() -> None:
    rng = np.random.default_rng(1)
    true = rng.normal(-1, 1.5, 40_000)
    labels = (rng.random(len(true)) < sigmoid(true)).astype(np.float32)
    scale, offset = fit_platt(true * 3 + 2, labels)
    assert scale == pytest.approx(1 / 3, rel=0.05)
    assert offset == pytest.approx(-2 / 3, abs=0.05)


def test_calibration_of_separable_and_of_huge_logits_is_finite() -> None:
    labels = np.repeat([0.0, 1.0], 50).astype(np.float32)
    for logits in (np.repeat([-1.0, 1.0], 50), np.repeat([-1e30, 1e30], 50), np.zeros(100)):
        scale, offset = fit_platt(logits, labels)
        assert np.isfinite([scale, offset]).all()
        assert scale > 0


def test_calibration_never_turns_the_order_round() -> None:
    labels = np.repeat([1.0, 0.0], 50).astype(np.float32)
    scale, _ = fit_platt(np.linspace(-1, 1, 100), labels)
    assert scale > 0


def test_sigmoid_does_not_overflow() -> None:
    assert sigmoid(np.array([-1e300, 0.0, 1e300])).tolist() == [0.0, 0.5, 1.0]


def test_the_order_of_rows_with_one_probability_is_no_miscalibration() -> None:
    """Rows with equal features come ordered by label, and data with few distinct rows has long ties."""
    labels = np.repeat([0.0, 1.0], [78, 22])
    probabilities = np.full(100, 0.22)
    assert expected_calibration_error(labels, probabilities) == pytest.approx(0.0, abs=1e-12)
    assert expected_calibration_error(labels, probabilities + 0.1) == pytest.approx(0.1)
