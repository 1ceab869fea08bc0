"""Gates: outcomes at the bounds, and "not enough evidence" where nothing can be said."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.training.fairness import Comparison, compare_groups, wilson
from services.training.gates import Gate, Measurements, Outcome, judge, not_passed
from services.training.robustness import attack
from services.training.spec import GateBounds

LABELS = np.tile([0.0, 1.0], 100).astype(np.float32)
GOOD = np.tile([0.1, 0.9], 100)
BOUNDS = GateBounds(0.8, 0.15, 5.0, 0.2, 0.6, 20)


def measurements(**changes: object) -> Measurements:
    """A model that ranks perfectly and is off by a tenth."""
    content = Measurements(LABELS, GOOD, GOOD, 2, np.linspace(0.1, 1.0, 100))
    return dataclasses.replace(content, **changes)  # type: ignore[arg-type]


def outcomes(gates: list[Gate]) -> dict[str, Outcome]:
    """Outcomes by gate."""
    return {gate.name: gate.outcome for gate in gates}


def compared(codes: np.ndarray, *, least: int = 20, names: tuple[str, ...] = ("a", "b")) -> Comparison:
    """The good model's groups."""
    return compare_groups(LABELS, GOOD >= 0.5, codes, names, min_evidence=least, seed=1)


def test_a_good_model_passes_every_gate() -> None:
    gates = judge(measurements(), [("sex", compared(np.repeat([0, 1], 100)))], BOUNDS)
    assert [gate.name for gate in gates] == ["accuracy", "calibration", "latency", "robustness", "fairness:sex"]
    assert not_passed(gates) == []
    assert outcomes(gates)["fairness:sex"] is Outcome.PASSED
    values = {gate.name: gate.value for gate in gates}
    assert values["accuracy"] == 1.0
    assert values["calibration"] == pytest.approx(0.1, abs=0.02)
    assert values["latency"] == pytest.approx(np.percentile(np.linspace(0.1, 1.0, 100), 99))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("accuracy", {"probabilities": np.full(200, 0.5)}),
        ("calibration", {"probabilities": GOOD * 0.6}),
        ("latency", {"latencies_ms": np.full(100, 5.01)}),
        ("latency", {"latencies_ms": np.full(100, np.nan)}),
        ("robustness", {"attacked_probabilities": 1 - GOOD}),
    ],
)
def test_each_bound_fails_its_own_gate(name: str, change: dict[str, object]) -> None:
    gates = judge(measurements(**change), [], BOUNDS)
    assert outcomes(gates)[name] is Outcome.FAILED
    assert not_passed(gates) == [name]


def test_bounds_are_inclusive() -> None:
    exact = dataclasses.replace(BOUNDS, min_auc=1.0, max_latency_p99_ms=2.0)
    assert not_passed(judge(measurements(latencies_ms=np.full(50, 2.0)), [], exact)) == []


def test_no_mutable_feature_is_said_so() -> None:
    gate = judge(measurements(mutable_features=0), [], BOUNDS)[3]
    assert "nothing to attack" in gate.detail


def test_equalized_odds_difference_is_the_widest_gap_of_either_rate() -> None:
    labels = np.array([1] * 40 + [0] * 40, dtype=np.float32)
    codes = np.tile([0, 1], 40)
    predicted = np.zeros(80, dtype=bool)
    predicted[:20:2] = True  # 10 of the 20 positives of group 0, none of group 1
    predicted[40:48:2] = True  # 4 of the 20 negatives of group 0, none of group 1
    found = compare_groups(labels, predicted, codes, ("a", "b"), min_evidence=20, seed=1)
    assert found.difference == pytest.approx(0.5)
    assert found.groups[0].true_positive_rate.value == pytest.approx(0.5)
    assert found.groups[0].false_positive_rate.value == pytest.approx(0.2)
    assert found.low < 0.5 < found.high
    assert outcomes(judge(measurements(), [("g", found)], BOUNDS))["fairness:g"] is Outcome.FAILED


def test_groups_without_positives_and_a_lone_member_are_not_enough_evidence() -> None:
    """Two groups of 30 without positives and one minority member: a difference of 0 would say nothing."""
    codes = np.array([0] * 30 + [1] * 30 + [2])
    found = compare_groups(
        np.zeros(61, dtype=np.float32), np.zeros(61, dtype=bool), codes, ("a", "b", "c"), min_evidence=10, seed=1
    )
    assert np.isnan(found.difference)
    assert found.left_out == ("a", "b", "c")
    gate = judge(measurements(), [("g", found)], BOUNDS)[-1]
    assert gate.outcome is Outcome.NOT_ENOUGH_EVIDENCE
    assert not_passed([gate]) == ["fairness:g"]
    assert gate.value == 0.0
    assert "c: 0 positives, 1 negatives" in gate.detail
    assert "left out for fewer than 20 of either: a, b, c" in gate.detail


def test_a_declared_group_without_rows_is_not_enough_evidence() -> None:
    found = compared(np.repeat([0, 1], 100), names=("a", "b", "nobody"))
    assert found.left_out == ("nobody",)
    gate = judge(measurements(), [("g", found)], BOUNDS)[-1]
    assert gate.outcome is Outcome.NOT_ENOUGH_EVIDENCE
    assert gate.value == 0.0


def test_a_broken_bound_fails_even_where_a_group_lacks_evidence() -> None:
    found = dataclasses.replace(compared(np.repeat([0, 1], 100)), difference=0.9, left_out=("x",))
    assert outcomes(judge(measurements(), [("g", found)], BOUNDS))["fairness:g"] is Outcome.FAILED


def test_rows_without_a_group_are_counted() -> None:
    found = compared(np.concatenate([np.repeat([0, 1], 90), np.full(20, -1)]))
    assert found.without_group == 20
    assert "20 rows in no group" in judge(measurements(), [("g", found)], BOUNDS)[-1].detail


@settings(deadline=None)
@given(st.integers(0, 200), st.integers(0, 200))
def test_wilson_intervals_hold_the_share(hits: int, more: int) -> None:
    rate = wilson(hits, hits + more)
    if rate.cases == 0:
        assert np.isnan([rate.value, rate.low, rate.high]).all()
    else:
        assert 0 <= rate.low <= rate.value + 1e-12
        assert rate.value <= rate.high + 1e-12 <= 1 + 2e-12


def test_wilson_known_value() -> None:
    rate = wilson(8, 10)
    assert (rate.low, rate.high) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))


def test_the_interval_of_a_difference_holds_the_truth() -> None:
    """In 19 of 20 samples or more, also where all groups are alike and noise alone makes a difference."""
    rng = np.random.default_rng(0)
    for rates in ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.7]):
        held = 0
        for sample in range(100):
            codes = rng.integers(0, 4, 3000)
            labels = (rng.random(3000) < 0.3).astype(np.float32)
            chance = np.where(labels == 1, np.array(rates)[codes], 0.1)
            found = compare_groups(
                labels, rng.random(3000) < chance, codes, ("a", "b", "c", "d"), min_evidence=5, seed=sample
            )
            assert found.low <= found.difference <= found.high
            held += found.low <= max(rates) - min(rates) <= found.high
        assert held >= 93


def test_rates_of_nought_are_not_certain() -> None:
    labels, codes = np.tile([0.0, 1.0], 40).astype(np.float32), np.repeat([0, 1], 40)
    found = compare_groups(labels, np.zeros(80, bool), codes, ("a", "b"), min_evidence=5, seed=1)
    assert found.difference == 0
    assert found.high > 0.05


def test_the_attack_stays_within_bounds_and_finds_the_worst_corner_of_a_linear_model() -> None:
    rng = np.random.default_rng(3)
    features = rng.normal(size=(40, 3)) * 10
    features[0, 1] = np.nan
    labels = np.tile([0.0, 1.0], 20).astype(np.float32)
    weights = np.array([2.0, -1.0, 5.0])
    fractions = np.array([0.1, 0.3, 0.0])
    attacked = attack(
        features,
        labels,
        fractions,
        lambda x: np.nan_to_num(x) @ weights,
        lambda x: np.broadcast_to(weights, x.shape),
    )
    direction = np.where(labels == 1, -1.0, 1.0)[:, None]
    worst = features + direction * np.sign(weights) * np.abs(features) * fractions
    assert np.allclose(attacked, worst, equal_nan=True)
    assert np.isnan(attacked[0, 1])
    assert np.array_equal(attacked[:, 2], features[:, 2])


def test_the_attack_keeps_the_worst_point_on_its_way() -> None:
    """Steps of a quarter of the bound jump to and fro over a peak at 0.3 of it; the last one is not the best."""
    features = np.array([[10.0], [-20.0]])
    peak = features + 0.03 * np.abs(features)
    attacked = attack(
        features,
        np.zeros(2, np.float32),
        np.array([0.1]),
        lambda x: -np.abs(x - peak)[:, 0],
        lambda x: np.sign(peak - x),
    )
    assert np.allclose(attacked, features + 0.025 * np.abs(features))


def test_the_attack_never_helps() -> None:
    """A gradient that points the wrong way leaves every row where it was."""
    features, weights = np.array([[1.0, 2.0], [3.0, -4.0]]), np.array([1.0, -1.0])
    labels = np.array([0.0, 1.0], np.float32)
    attacked = attack(
        features, labels, np.full(2, 0.1), lambda x: x @ weights, lambda x: np.broadcast_to(-weights, x.shape)
    )
    assert np.array_equal(attacked, features)
