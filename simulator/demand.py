"""A day of load: quiet nights, a morning and an evening top, and one spike that nobody announced. The seed is the day."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DAY_SECONDS = 86_400
_HOUR = 3600.0
NIGHT = 0.12


@dataclass(frozen=True)
class Spike:
    """A sudden rise by ``factor``, ``seconds`` long."""

    begin: float
    seconds: float
    factor: float


@dataclass(frozen=True)
class Day:
    """One day.

    Attributes:
        peak: calls a second at the highest point of the curve, without the spike.
        seed: of everything that is left to chance.
        spike: what comes on top.
        wobble: how far the rate strays from its curve from minute to minute (standard deviation).
    """

    peak: float
    seed: int = 7
    spike: Spike = Spike(14.0 * _HOUR, 900.0, 1.6)
    wobble: float = 0.05

    def rate(self, time: float) -> float:
        """Return calls a second at a time of the day, before chance."""
        hour = time / _HOUR
        tops = math.exp(-(((hour - 10.5) / 2.8) ** 2)) + 0.85 * math.exp(-(((hour - 19.0) / 2.4) ** 2))
        level = NIGHT + (1.0 - NIGHT) * min(1.0, tops)
        spiked = self.spike.begin <= time < self.spike.begin + self.spike.seconds
        return self.peak * level * (self.spike.factor if spiked else 1.0)

    def arrivals(self, begin: float, seconds: float, chance: np.random.Generator) -> npt.NDArray[np.float64]:
        """Return the times of the calls in an interval, sorted: Poisson around a rate that wobbles."""
        rate = self.rate(begin) * max(0.0, 1.0 + self.wobble * chance.standard_normal())
        return begin + np.sort(chance.random(chance.poisson(rate * seconds))) * seconds
