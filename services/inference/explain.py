"""Integrated Gradients: why one prediction is what it is, in logit units and in words.

The attribution of feature i is ``(x_i - b_i)`` times the mean of the logit's derivative by x_i along the straight line
from the baseline b to the entity's values x (Sundararajan, Taly and Yan, 2017). Attributions sum to
``logit(x) - logit(b)``; what the numerical integral leaves of that is the completeness gap, which is always reported.

- The line is cut into pieces, and a piece counts with the derivative at its middle. What that misses is known exactly,
  because the true integral over a piece is the difference of the logits at its ends; a piece that misses too much is
  halved. So points gather at the kinks of the model instead of being doubled everywhere, and the gap of an entity
  comes to at most ``TOLERANCE * max(1, |logit(x) - logit(b)|)``, unless a bound of points or of halvings is reached.
- Points are evaluated in chunks of fixed size, so memory does not depend on rows times points.
- A missing value (NaN) lies on no line. Where exactly one of value and baseline is missing, the feature is first switched
  from the one to the other, and the logit's jump is its attribution: exact for one such feature, and for several the
  mean over switching them in input order and in reverse, so that jumps still sum to their joint effect. The line is then
  drawn for the other features. The model may treat a missing value as it likes.

The derivative comes from ``onnx_graph.py``: analytic, in numpy, of the very graph that is served. That keeps torch, about
190 MiB of resident memory and seconds of import, out of the process, and leaves no second copy of the architecture to
drift from the first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from hedgerow.errors import CallCancelledError

FloatArray = npt.NDArray[np.float64]

TOLERANCE: Final = 1e-3
FIRST_PIECES: Final = 16
MOST_POINTS: Final = 4096
MOST_HALVINGS: Final = 40
KINKS: Final = 32
"""Pieces of a line that are expected to miss something; each may miss this part of the tolerance."""
CHUNK_POINTS: Final = 256
"""Small enough that the layers of a usual network stay in the second-level cache."""


class Differentiable(Protocol):
    """A model whose logit can be differentiated. Rows are raw values of shape [n, features], NaN where missing."""

    def logits(self, rows: FloatArray) -> FloatArray:
        """Return the logits, shape [n]."""

    def logits_and_gradients(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the logits, shape [n], and their derivatives by the features, shape [n, features]."""


@dataclass(frozen=True, slots=True)
class Attribution:
    """The explanation of some rows.

    Attributes:
        logits: shape [n].
        baseline_logit: the model's logit for the baseline.
        values: attributions in logit units, shape [n, features].
        gaps: completeness gaps, shape [n], not negative.
        points: points evaluated on the line of each row, shape [n].
    """

    logits: FloatArray
    baseline_logit: float
    values: FloatArray
    gaps: FloatArray
    points: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reason:
    """One reason for a prediction.

    Attributes:
        feature: the feature's name.
        value: the entity's value; NaN when it is missing.
        baseline_value: the baseline's value.
        attribution: in logit units.
        text: the reason in words.
    """

    feature: str
    value: float
    baseline_value: float
    attribution: float
    text: str


def integrated_gradients(
    model: Differentiable,
    rows: FloatArray,
    baseline: FloatArray,
    *,
    first_pieces: int = FIRST_PIECES,
    most_points: int = MOST_POINTS,
    chunk_points: int = CHUNK_POINTS,
    cancelled: Callable[[], bool] = lambda: False,
) -> Attribution:
    """Attribute the logits of raw rows to their features.

    Args:
        model: the model.
        rows: raw values, shape [n, features]; NaN where missing.
        baseline: raw values, shape [features]; NaN where missing.
        first_pieces: pieces of each line to begin with.
        most_points: points per row at which halving stops, whatever the gap.
        chunk_points: points evaluated at once; bounds memory.
        cancelled: asked between chunks.

    Raises:
        CallCancelledError: ``cancelled`` said so.
    """
    logits = model.logits(rows)
    baseline_logit = float(model.logits(baseline[None, :])[0])
    differences = logits - baseline_logit
    starts, jumps = _switch_missing(model, rows, baseline)
    lines = _Lines(model, starts, np.nan_to_num(rows - starts), chunk_points, cancelled)
    lines.integrate(first_pieces, most_points, TOLERANCE * np.maximum(1.0, np.abs(differences)) / KINKS)
    values = jumps + lines.values
    return Attribution(logits, baseline_logit, values, np.abs(values.sum(axis=1) - differences), lines.points)


@dataclass(frozen=True, slots=True)
class _Pieces:
    """Pieces of lines, sorted by row: where each begins (0 to 1), its width, and the logits at its two ends."""

    row: npt.NDArray[np.intp]
    begin: FloatArray
    width: FloatArray
    left: FloatArray
    right: FloatArray

    def __getitem__(self, index: slice | npt.NDArray[np.bool_]) -> _Pieces:
        return _Pieces(self.row[index], self.begin[index], self.width[index], self.left[index], self.right[index])

    def halves(self, middle: FloatArray) -> _Pieces:
        """Cut each piece at its middle, where the logits are known."""
        half = self.width / 2.0
        return _Pieces(
            np.repeat(self.row, 2),
            np.stack([self.begin, self.begin + half], axis=1).ravel(),
            np.repeat(half, 2),
            np.stack([self.left, middle], axis=1).ravel(),
            np.stack([middle, self.right], axis=1).ravel(),
        )


def _joined(parts: Sequence[_Pieces]) -> _Pieces:
    return _Pieces(
        np.concatenate([part.row for part in parts]),
        np.concatenate([part.begin for part in parts]),
        np.concatenate([part.width for part in parts]),
        np.concatenate([part.left for part in parts]),
        np.concatenate([part.right for part in parts]),
    )


class _Lines:
    """The lines from baselines to rows, and the integrals of the derivative along them.

    Attributes:
        values: integrals by feature, shape [n, features].
        points: points evaluated, shape [n].
    """

    def __init__(
        self,
        model: Differentiable,
        starts: FloatArray,
        deltas: FloatArray,
        chunk_points: int,
        cancelled: Callable[[], bool],
    ) -> None:
        self._model = model
        self._starts = starts
        self._deltas = deltas
        self._chunk = chunk_points
        self._cancelled = cancelled
        self.values = np.zeros_like(deltas)
        self.points = np.zeros(len(deltas), dtype=np.int64)

    def integrate(self, first_pieces: int, most_points: int, allowed: FloatArray) -> None:
        """Integrate along every line; ``allowed`` is what one piece of each row may miss, shape [n]."""
        pieces = self._first(first_pieces)
        for halvings in range(MOST_HALVINGS + 1):
            rest = []
            for begin in range(0, len(pieces.row), self._chunk):
                chunk = pieces[begin : begin + self._chunk]
                logits, integrals = self._middle(chunk)
                missed = np.abs(chunk.right - chunk.left - integrals.sum(axis=1))
                # Written so that a difference that is no number is not halved: points would not help it.
                halve = (missed > allowed[chunk.row]) & (self.points[chunk.row] < most_points)
                halve &= halvings < MOST_HALVINGS
                self._add(chunk.row[~halve], integrals[~halve])
                rest.append(chunk[halve].halves(logits[halve]))
            pieces = _joined(rest) if rest else pieces[:0]
            if not len(pieces.row):
                return

    def _first(self, count: int) -> _Pieces:
        """Cut every line into equal pieces."""
        borders = np.linspace(0.0, 1.0, count + 1)
        row = np.repeat(np.arange(len(self._deltas)), count + 1)
        at = np.tile(borders, len(self._deltas))
        logits = np.empty(len(row))
        for begin in range(0, len(row), self._chunk):
            part = slice(begin, begin + self._chunk)
            logits[part] = self._model.logits(self._at(row[part], at[part]))
        ends = logits.reshape(-1, count + 1)
        return _Pieces(
            np.repeat(np.arange(len(self._deltas)), count),
            np.tile(borders[:-1], len(self._deltas)),
            np.full(len(self._deltas) * count, 1.0 / count),
            ends[:, :-1].ravel(),
            ends[:, 1:].ravel(),
        )

    def _at(self, row: npt.NDArray[np.intp], fraction: FloatArray) -> FloatArray:
        if self._cancelled():
            raise CallCancelledError("the explanation was cancelled")
        return self._starts[row] + fraction[:, None] * self._deltas[row]

    def _middle(self, pieces: _Pieces) -> tuple[FloatArray, FloatArray]:
        """Return the logits in the middle of pieces, and the integrals with the derivative there, [n, features]."""
        points = self._at(pieces.row, pieces.begin + pieces.width / 2.0)
        logits, gradients = self._model.logits_and_gradients(points)
        self.points += np.bincount(pieces.row, minlength=len(self.points))
        # Where value and baseline are equal or both missing, the derivative does not matter and may be no number.
        deltas = self._deltas[pieces.row]
        return logits, np.where(deltas == 0.0, 0.0, pieces.width[:, None] * gradients * deltas)

    def _add(self, row: npt.NDArray[np.intp], integrals: FloatArray) -> None:
        # Pieces of a row are neighbours, so each row's share is one slice.
        first = np.flatnonzero(np.diff(row, prepend=-1))
        if len(first):
            self.values[row[first]] += np.add.reduceat(integrals, first, axis=0)


def _switch_missing(model: Differentiable, rows: FloatArray, baseline: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Switch the features that are missing on one side alone from the baseline's value to the row's.

    Returns:
        The baseline of each row after the switches, and what each switch did to the logit; both [n, features].
    """
    starts = np.tile(baseline, (len(rows), 1))
    jumps = np.zeros_like(starts)
    for row, switched in enumerate(np.isnan(rows) != np.isnan(baseline)):
        features = np.flatnonzero(switched)
        if len(features) == 0:
            continue
        for order in (features, features[::-1]):
            path = np.tile(baseline, (len(order) + 1, 1))
            for place, feature in enumerate(order):
                path[place + 1 :, feature] = rows[row, feature]
            jumps[row, order] += np.diff(model.logits(path)) / 2.0
        starts[row, features] = rows[row, features]
    return starts, jumps


def reasons(
    names: Sequence[str],
    descriptions: Sequence[str],
    row: FloatArray,
    baseline: FloatArray,
    attributions: FloatArray,
    *,
    top: int,
) -> list[Reason]:
    """Return the strongest reasons of one row, strongest first; a feature without influence is none.

    Args:
        names: feature names, in input order.
        descriptions: what each feature means; a name stands in where it is empty.
        row: raw values, shape [features].
        baseline: raw values, shape [features].
        attributions: shape [features].
        top: the most reasons to return.
    """
    order = np.argsort(-np.abs(attributions), kind="stable")[:top]
    found = []
    for index in order.tolist():
        attribution = float(attributions[index])
        if attribution == 0.0 or not math.isfinite(attribution):
            continue
        value, typical = float(row[index]), float(baseline[index])
        text = _words(descriptions[index] or names[index], value, typical, attribution)
        found.append(Reason(names[index], value, typical, attribution, text))
    return found


def _words(description: str, value: float, typical: float, attribution: float) -> str:
    effect = "raises the risk" if attribution > 0 else "lowers the risk"
    comparison = "" if math.isnan(typical) else f", where {plain(typical)} is typical"
    return f"{description.rstrip('.')}: {plain(value)}{comparison}; {effect}"


def plain(value: float) -> str:
    """Return a number for people: whole numbers whole, others with three significant digits, NaN as "not known"."""
    if math.isnan(value):
        return "not known"
    if math.isinf(value):
        return "unbounded"
    if value == int(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value:.3g}"
    return text if "e" not in text else f"{value:.6f}".rstrip("0").rstrip(".")
