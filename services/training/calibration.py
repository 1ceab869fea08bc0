"""Platt calibration: two numbers that turn a logit into one whose sigmoid is a probability."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

STEPS: Final = 100
TOLERANCE: Final = 1e-10
RIDGE: Final = 1e-9
LEAST_SCALE: Final = 1e-3


def sigmoid(logits: FloatArray) -> FloatArray:
    """Return probabilities, without overflow."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def fit_platt(logits: FloatArray, labels: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Return scale and offset that minimise the log loss of ``sigmoid(scale * logit + offset)``, by Newton's method.

    Labels are drawn in a little, as Platt does, so that separable rows have a finite optimum. The scale is kept positive:
    calibration must not change the order of predictions, and a model that ranks worse than chance fails its accuracy
    gate instead.

    Args:
        logits: shape [n], finite.
        labels: 0 or 1, shape [n].
    """
    positives = float(labels.sum())
    negatives = len(labels) - positives
    target = np.where(labels == 1, (positives + 1.0) / (positives + 2.0), 1.0 / (negatives + 2.0))
    # Newton's method needs logits of about unit spread: those of a diverged model can be of any size.
    centre, spread = float(logits.mean()), float(logits.std()) or 1.0
    inputs = np.stack([(logits - centre) / spread, np.ones(len(logits))], axis=1)
    solution = np.array([1.0, np.log((positives + 1.0) / (negatives + 1.0))])
    loss = _loss(inputs @ solution, target)
    for _ in range(STEPS):
        probability = sigmoid(inputs @ solution)
        gradient = inputs.T @ (probability - target)
        weight = probability * (1.0 - probability)
        step = np.linalg.solve(inputs.T @ (inputs * weight[:, None]) + RIDGE * np.eye(2), gradient)
        # Halved until the loss falls: a full step may overshoot where the sigmoid is flat.
        for _ in range(STEPS):
            trial = _loss(inputs @ (solution - step), target)
            if trial <= loss:
                break
            step = step / 2.0
        if trial > loss or np.abs(step).max() < TOLERANCE:
            break
        solution, loss = solution - step, trial
    slope = max(float(solution[0]), LEAST_SCALE)
    return slope / spread, float(solution[1]) - slope * centre / spread


def _loss(logits: FloatArray, target: FloatArray) -> float:
    return float((np.logaddexp(0.0, logits) - target * logits).sum())
