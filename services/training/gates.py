"""Gates: measured values against the bounds of the run. Pure numpy; nothing here trains, reads or decides a threshold.

Rules:

1. Every gate is measured on the gate split, which neither training, early stopping nor calibration has seen.
2. A gate passes only by a measured value within its bound; a value that is not a number fails.
3. "Not enough evidence" is an outcome of its own and not a pass: a declared group with too few positives or negatives
   leaves the question open, unless the groups that can be compared already break the bound.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from services.training.fairness import Comparison
from services.training.metrics import CALIBRATION_BINS, auc, expected_calibration_error
from services.training.spec import GateBounds

FloatArray = npt.NDArray[np.float64]

LATENCY_PERCENTILE: Final = 99


class Outcome(enum.StrEnum):
    """How a gate ended."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    NOT_ENOUGH_EVIDENCE = "NOT_ENOUGH_EVIDENCE"


@dataclass(frozen=True, slots=True)
class Gate:
    """The result of one gate; see ``GateResult`` of the contract."""

    name: str
    outcome: Outcome
    value: float
    bound: float
    unit: str
    detail: str


@dataclass(frozen=True, slots=True, eq=False)
class Measurements:
    """What a trained model did on the gate split.

    Attributes:
        labels: 0 or 1, shape [n].
        probabilities: calibrated, shape [n].
        attacked_probabilities: under the bounded attack, shape [n].
        mutable_features: features that the attack could move.
        latencies_ms: of single predictions, shape [k].
    """

    labels: npt.NDArray[np.float32]
    probabilities: FloatArray
    attacked_probabilities: FloatArray
    mutable_features: int
    latencies_ms: FloatArray


def judge(measured: Measurements, comparisons: Sequence[tuple[str, Comparison]], bounds: GateBounds) -> list[Gate]:
    """Return the result of every gate.

    Args:
        measured: on the gate split.
        comparisons: of groups, by the short name of the protected attribute.
        bounds: of the run.
    """
    rows = len(measured.labels)
    positives = int(measured.labels.sum())
    cases = f"{rows} rows of the gate split, {positives} of them positive"
    latency = float(np.percentile(measured.latencies_ms, LATENCY_PERCENTILE))
    return [
        _at_least("accuracy", auc(measured.labels, measured.probabilities), bounds.min_auc, "auc", cases),
        _at_most(
            "calibration",
            expected_calibration_error(measured.labels, measured.probabilities),
            bounds.max_ece,
            "ece",
            f"{CALIBRATION_BINS} bins of equal mass; {cases}",
        ),
        _at_most(
            "latency",
            latency,
            bounds.max_latency_p99_ms,
            "ms",
            f"99th percentile of {len(measured.latencies_ms)} predictions of one row in ONNX Runtime on one thread",
        ),
        _robustness(measured, bounds, cases),
        *(_fairness(name, comparison, bounds) for name, comparison in comparisons),
    ]


def not_passed(gates: Sequence[Gate]) -> list[str]:
    """Return the names of the gates that did not pass."""
    return [gate.name for gate in gates if gate.outcome is not Outcome.PASSED]


def _robustness(measured: Measurements, bounds: GateBounds, cases: str) -> Gate:
    if measured.mutable_features:
        detail = f"{measured.mutable_features} features that a subject could change, each within its bound; {cases}"
    else:
        detail = "no feature is declared as one that a subject could change, so there was nothing to attack"
    value = auc(measured.labels, measured.attacked_probabilities)
    return _at_least("robustness", value, bounds.min_robust_auc, "auc", detail)


def _at_least(name: str, value: float, bound: float, unit: str, detail: str) -> Gate:
    return Gate(name, Outcome.PASSED if value >= bound else Outcome.FAILED, value, bound, unit, detail)


def _at_most(name: str, value: float, bound: float, unit: str, detail: str) -> Gate:
    return Gate(name, Outcome.PASSED if value <= bound else Outcome.FAILED, value, bound, unit, detail)


def _fairness(name: str, comparison: Comparison, bounds: GateBounds) -> Gate:
    gate = _at_most(
        f"fairness:{name}",
        comparison.difference,
        bounds.max_equalized_odds_difference,
        "equalized odds difference",
        _groups_in_words(comparison, bounds.min_group_evidence),
    )
    if np.isnan(comparison.difference) or (comparison.left_out and gate.outcome is Outcome.PASSED):
        outcome, value = Outcome.NOT_ENOUGH_EVIDENCE, float(np.nan_to_num(comparison.difference))
        return Gate(gate.name, outcome, value, gate.bound, gate.unit, gate.detail)
    return gate


def _groups_in_words(comparison: Comparison, least: int) -> str:
    parts = [
        f"{group.name}: {group.true_positive_rate.cases} positives, {group.false_positive_rate.cases} negatives"
        for group in comparison.groups
    ]
    if comparison.left_out:
        parts.append(f"left out for fewer than {least} of either: {', '.join(comparison.left_out)}")
    if comparison.without_group:
        parts.append(f"{comparison.without_group} rows in no group")
    if not np.isnan(comparison.difference):
        parts.append(f"95 % interval {comparison.low:.3f} to {comparison.high:.3f}")
    return "; ".join(parts)
