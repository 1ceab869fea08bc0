"""How many users there are when: ramp, step, spike and soak, as functions of time."""

from __future__ import annotations

import math
from collections.abc import Callable

STEPS = 5
SPIKE_BASE = 0.25


def ramp(part: float) -> float:
    """Up over half of the run, then level."""
    return min(1.0, part * 2.0)


def step(part: float) -> float:
    """Up in equal steps."""
    return (math.floor(part * STEPS) + 1) / STEPS


def spike(part: float) -> float:
    """A quarter of the users, and all of them in the middle fifth."""
    return 1.0 if 0.4 <= part < 0.6 else SPIKE_BASE


def soak(part: float) -> float:
    """All users after a short warm-up."""
    return min(1.0, 0.2 + part * 16.0)


SHAPES: dict[str, Callable[[float], float]] = {"ramp": ramp, "step": step, "spike": spike, "soak": soak}


def users_at(shape: str, elapsed: float, seconds: float, peak: int, least: int) -> int | None:
    """Return the number of users at a time, or None when the run is over.

    Args:
        shape: one of ``SHAPES``.
        elapsed: since the begin of the run, in seconds.
        seconds: length of the run.
        peak: the most users.
        least: the fewest, so that each kind of user is there.
    """
    if elapsed >= seconds:
        return None
    return max(min(least, peak), round(peak * SHAPES[shape](elapsed / seconds)))
