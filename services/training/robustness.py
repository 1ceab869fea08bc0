"""A bounded attack on what a subject could change: how much does ranking suffer? Pure numpy.

Each mutable feature may move by its fraction of its own value. Everyone is pushed to the wrong side, positives down and
negatives up, by steps along the sign of the logit's gradient, projected into the bounds after each step. A step may
overshoot where the model bends, so of all points on the way, the start among them, each row keeps the one that hurts
most.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

STEPS: Final = 10
# Steps add up to more than the bound, so that a feature can turn back within it.
REACH: Final = 2.5

Logits = Callable[[FloatArray], FloatArray]
"""The model's logits, shape [n], for rows of shape [n, f], with the model in evaluation mode."""

Gradients = Callable[[FloatArray], FloatArray]
"""Derivatives of the logit by the features, shape [n, f], for rows of the same shape, with the model in evaluation mode."""


def attack(
    features: FloatArray,
    labels: npt.NDArray[np.float32],
    mutable_fractions: FloatArray,
    logits: Logits,
    gradients: Gradients,
) -> FloatArray:
    """Return the attacked rows.

    Args:
        features: raw values, NaN where missing, shape [n, f]; missing values stay missing.
        labels: 0 or 1, shape [n].
        mutable_fractions: the relative distance that each feature may move, shape [f]; 0 for what cannot be changed.
        logits: of the model under attack.
        gradients: of the same model.
    """
    distance = np.abs(features) * mutable_fractions
    direction = np.where(labels == 1, -1.0, 1.0)
    attacked = worst = features
    harm = direction * logits(features)
    for _ in range(STEPS):
        step = direction[:, None] * np.sign(gradients(attacked)) * distance * (REACH / STEPS)
        attacked = np.clip(attacked + step, features - distance, features + distance)
        reached = direction * logits(attacked)
        worst = np.where((reached > harm)[:, None], attacked, worst)
        harm = np.maximum(harm, reached)
    return worst
