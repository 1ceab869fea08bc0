"""How good probabilities are: ranking (AUC, ROC) and calibration (ECE, reliability). Pure numpy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Labels = npt.NDArray[np.float32] | npt.NDArray[np.int8] | FloatArray

CALIBRATION_BINS: Final = 15


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """One bin of equal mass.

    Attributes:
        count: rows.
        mean_probability: what was predicted on average.
        positive_share: what happened.
    """

    count: int
    mean_probability: float
    positive_share: float


def auc(labels: Labels, scores: FloatArray) -> float:
    """Return the area under the ROC curve: the chance that a positive outranks a negative, ties counting half.

    Args:
        labels: 0 or 1, shape [n]; both must occur.
        scores: shape [n], finite.

    Raises:
        ValueError: a class is missing or a score is not finite.
    """
    positive = np.asarray(labels) == 1
    positives = int(positive.sum())
    negatives = len(positive) - positives
    if not positives or not negatives:
        raise ValueError("an AUC needs both classes")
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Ranks from 1, each tie with the mean of the ranks it spans.
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]
    return float((ranks[positive].sum() - positives * (positives + 1) / 2.0) / (positives * negatives))


def roc_curve(labels: Labels, scores: FloatArray, points: int = 101) -> list[tuple[float, float]]:
    """Return (false-positive rate, true-positive rate) from (0, 0) to (1, 1), thinned to about ``points``."""
    order = np.argsort(-scores, kind="stable")
    positive = np.asarray(labels)[order] == 1
    last_of_tie = np.append(np.diff(scores[order]) != 0, True)
    true = np.cumsum(positive)[last_of_tie] / max(int(positive.sum()), 1)
    false = np.cumsum(~positive)[last_of_tie] / max(int((~positive).sum()), 1)
    kept = np.unique(np.linspace(0, len(true) - 1, points).round().astype(int))
    return [(0.0, 0.0), *((float(false[i]), float(true[i])) for i in kept)]


def reliability(labels: Labels, probabilities: FloatArray, bins: int = CALIBRATION_BINS) -> list[ReliabilityBin]:
    """Return at most ``bins`` bins of equal mass, by rising probability.

    A tie may be split between two bins. Each of its rows then counts with the positive share of the whole tie: which of
    them falls into which bin is chance, and must say nothing about calibration.
    """
    order = np.argsort(probabilities, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    _, tie, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    share = (np.bincount(tie, weights=np.asarray(labels, dtype=np.float64)) / counts)[tie]
    return [ReliabilityBin(len(p), float(probabilities[p].mean()), float(share[p].mean())) for p in parts]


def expected_calibration_error(labels: Labels, probabilities: FloatArray, bins: int = CALIBRATION_BINS) -> float:
    """Return the mean distance of predicted and observed shares over bins of equal mass, weighted by their rows."""
    table = reliability(labels, probabilities, bins)
    distance = sum(row.count * abs(row.mean_probability - row.positive_share) for row in table)
    return distance / sum(row.count for row in table)
