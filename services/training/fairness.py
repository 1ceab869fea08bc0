"""Equalized odds by group, and whether there is evidence enough to speak of it. Pure numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Z_95: Final = 1.959963984540054
RESAMPLES: Final = 2000


@dataclass(frozen=True, slots=True)
class Rate:
    """A share with its 95 % Wilson interval; value and bounds are NaN without cases."""

    cases: int
    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Group:
    """The rates of one group: true positives among its positives, false positives among its negatives."""

    name: str
    rows: int
    true_positive_rate: Rate
    false_positive_rate: Rate

    def has_evidence(self, least: int) -> bool:
        """Whether it has at least ``least`` positives and negatives."""
        return min(self.true_positive_rate.cases, self.false_positive_rate.cases) >= least


@dataclass(frozen=True, slots=True)
class Comparison:
    """Groups compared.

    Attributes:
        groups: every declared group, those without rows too.
        left_out: groups without evidence, by name.
        without_group: rows whose attribute is missing or in no declared group.
        difference: greatest difference of true- or false-positive rates between groups with evidence; NaN when fewer
            than two have any.
        low: lower end of its 95 % interval.
        high: upper end.
    """

    groups: tuple[Group, ...]
    left_out: tuple[str, ...]
    without_group: int
    difference: float
    low: float
    high: float


def wilson(hits: int, cases: int) -> Rate:
    """Return a share with its 95 % Wilson score interval."""
    if cases == 0:
        return Rate(0, float("nan"), float("nan"), float("nan"))
    share, z2 = hits / cases, Z_95 * Z_95
    centre = (share + z2 / (2 * cases)) / (1 + z2 / cases)
    half = Z_95 / (1 + z2 / cases) * np.sqrt(share * (1 - share) / cases + z2 / (4 * cases * cases))
    return Rate(cases, share, max(0.0, float(centre - half)), min(1.0, float(centre + half)))


def compare_groups(
    labels: npt.NDArray[np.float32],
    predicted: npt.NDArray[np.bool_],
    codes: npt.NDArray[np.int64],
    names: Sequence[str],
    *,
    min_evidence: int,
    seed: int,
) -> Comparison:
    """Compare the error rates of groups.

    Args:
        labels: 0 or 1, shape [n].
        predicted: whether each row is predicted positive, shape [n].
        codes: group of each row, -1 for none, shape [n].
        names: of the groups.
        min_evidence: positives and negatives that a group needs to be compared.
        seed: of the resampling behind the interval.
    """
    positive = labels == 1
    groups = []
    for code, name in enumerate(names):
        member = codes == code
        true = wilson(int((member & positive & predicted).sum()), int((member & positive).sum()))
        false = wilson(int((member & ~positive & predicted).sum()), int((member & ~positive).sum()))
        groups.append(Group(name, int(member.sum()), true, false))
    evidenced = [group for group in groups if group.has_evidence(min_evidence)]
    difference, low, high = _difference(evidenced, seed)
    return Comparison(
        groups=tuple(groups),
        left_out=tuple(group.name for group in groups if group not in evidenced),
        without_group=int((codes < 0).sum()),
        difference=difference,
        low=low,
        high=high,
    )


def _difference(groups: Sequence[Group], seed: int) -> tuple[float, float, float]:
    """Return the greatest difference of either rate, with its 95 % interval from resampled rates.

    The greatest of resampled differences is no interval: noise alone makes it large. So what is resampled is how far any
    difference lies from its own value; the greatest difference moves by at most that. Rates are drawn with one more case
    of each outcome, so that a rate of 0 or 1 is not taken for certain.
    """
    if len(groups) < 2:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(abs(seed))
    point = 0.0
    moved = np.zeros(RESAMPLES)
    for rates in ([g.true_positive_rate for g in groups], [g.false_positive_rate for g in groups]):
        values = np.array([rate.value for rate in rates])
        cases = np.array([rate.cases for rate in rates])
        likely = (values * cases + 1.0) / (cases + 2.0)
        drawn = rng.binomial(cases, likely, size=(RESAMPLES, len(rates))) / cases
        point = max(point, float(np.ptp(values)))
        moved = np.maximum(moved, np.ptp(drawn - likely, axis=1))
    reach = float(np.quantile(moved, 0.95))
    return point, max(0.0, point - reach), min(1.0, point + reach)
