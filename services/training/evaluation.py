"""Puts together what was measured: gates, and curves and tables for people.

Which number is which: ``test_*`` comes from the test split, which nothing before this has seen; gates and everything else
here come from the gate split.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from services.training.fairness import Comparison, Group, compare_groups
from services.training.gates import Gate, Measurements, judge
from services.training.launch import Trained
from services.training.metrics import auc, expected_calibration_error, reliability, roc_curve
from services.training.records import EpochMetrics
from services.training.spec import TrainingSpec
from services.training.splits import Split

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What is known about a trained model.

    Attributes:
        gates: their results.
        threshold: probability from which a prediction counts as positive.
        report: curves and tables, fit for JSON.
        comparisons: groups compared, by the short name of their attribute.
    """

    gates: tuple[Gate, ...]
    threshold: float
    report: dict[str, Any]
    comparisons: tuple[tuple[str, Comparison], ...]

    def to_json(self) -> str:
        """Return the report as JSON."""
        return json.dumps(self.report, allow_nan=False)


def evaluate(
    spec: TrainingSpec,
    splits: Mapping[str, Split],
    trained: Trained,
    protected: FloatArray,
    mutable: Mapping[str, float],
    epochs: Sequence[EpochMetrics],
) -> Evaluation:
    """Measure gates and make the report.

    Args:
        spec: of the run.
        splits: by name.
        trained: what the training process made.
        protected: values of the protected attributes on the gate split, shape [gate rows, attributes].
        mutable: relative distance that the attack could move each feature that a subject could change.
        epochs: of the run.
    """
    gate = splits["gate"]
    threshold = _threshold(splits["calibration"], trained.calibration)
    comparisons = tuple(
        (
            attribute.short_name,
            compare_groups(
                gate.labels,
                trained.gate >= threshold,
                attribute.groups_of(protected[:, column]),
                attribute.group_names,
                min_evidence=spec.gate_bounds.min_group_evidence,
                seed=spec.seed,
            ),
        )
        for column, attribute in enumerate(spec.protected_attributes)
    )
    measured = Measurements(gate.labels, trained.gate, trained.attacked, len(mutable), trained.latencies_ms)
    report = _report(splits, trained, mutable) | {
        "threshold": threshold,
        "groups": [
            _comparison(attribute.feature, attribute.display_name, comparison)
            for attribute, (_, comparison) in zip(spec.protected_attributes, comparisons, strict=True)
        ],
        "epochs": [_finite(dataclasses.asdict(epoch)) for epoch in epochs],
        "seed": spec.seed,
    }
    return Evaluation(tuple(judge(measured, comparisons, spec.gate_bounds)), threshold, report, comparisons)


def _report(splits: Mapping[str, Split], trained: Trained, mutable: Mapping[str, float]) -> dict[str, Any]:
    gate, test = splits["gate"], splits["test"]
    return {
        "test_auc": auc(test.labels, trained.test),
        "test_ece": expected_calibration_error(test.labels, trained.test),
        "test_rows": len(test),
        "test_roc": roc_curve(test.labels, trained.test),
        "test_reliability": [dataclasses.asdict(row) for row in reliability(test.labels, trained.test)],
        "gate_roc": roc_curve(gate.labels, trained.gate),
        "clean_auc": auc(gate.labels, trained.gate),
        "attack_auc": auc(gate.labels, trained.attacked),
        "attack": [{"feature": name, "mutable_fraction": fraction} for name, fraction in mutable.items()],
        "latency_ms": {f"p{p}": float(np.percentile(trained.latencies_ms, p)) for p in (50, 99)},
        "splits": {name: {"rows": len(split), "positives": int(split.labels.sum())} for name, split in splits.items()},
    }


def _threshold(calibration: Split, probabilities: FloatArray) -> float:
    """Return the probability that as many calibration rows reach as are positive."""
    return float(np.quantile(probabilities, 1.0 - float(calibration.labels.mean())))


def _comparison(feature: str, display_name: str, comparison: Comparison) -> dict[str, Any]:
    return _finite(
        {
            "attribute": feature,
            "display_name": display_name,
            "difference": comparison.difference,
            "low": comparison.low,
            "high": comparison.high,
            "left_out": list(comparison.left_out),
            "without_group": comparison.without_group,
            "groups": [_group(group) for group in comparison.groups],
        }
    )


def _group(group: Group) -> dict[str, Any]:
    true, false = group.true_positive_rate, group.false_positive_rate
    return _finite(
        {
            "name": group.name,
            "rows": group.rows,
            "positives": true.cases,
            "negatives": false.cases,
            "true_positive_rate": true.value,
            "true_positive_low": true.low,
            "true_positive_high": true.high,
            "false_positive_rate": false.value,
            "false_positive_low": false.low,
            "false_positive_high": false.high,
        }
    )


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values with None for what is not a number: JSON has no other word for it."""
    return {key: None if isinstance(v, float) and not math.isfinite(v) else v for key, v in values.items()}
