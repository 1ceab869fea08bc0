"""The decisions of a HorizontalPodAutoscaler, without its clock: the formula, the tolerance, windows and limits.

The rules (Kubernetes, "Algorithm details"):

1. ``desired = ceil(replicas * average / target)``, and no change while that ratio is within 10 % of 1.
2. Pods that are not ready count as idle when the ratio says up, and are left out when it says down.
3. Up goes to the lowest, down to the highest desire of the direction's stabilisation window.
4. In each period of a limit, replicas change by no more than it allows from what there was at the period's begin.
"""

from __future__ import annotations

import math
from collections import deque

from simulator.policies import Direction, Limit, Policy

TOLERANCE = 0.1


class Autoscaler:
    """One policy at work."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._desires: deque[tuple[float, int]] = deque()
        self._changes: deque[tuple[float, int]] = deque()

    def decide(self, now: float, replicas: int, ready: int, in_flight: float) -> int:
        """Return how many replicas there shall be.

        Args:
            now: in seconds; never goes back.
            replicas: how many there are.
            ready: how many of them serve.
            in_flight: calls in progress over all that serve.
        """
        desired = self._bounded(desire(replicas, ready, in_flight, self.policy.target))
        self._desires.append((now, desired))
        longest = max(self.policy.up.window_seconds, self.policy.down.window_seconds)
        while self._desires[0][0] < now - longest:
            self._desires.popleft()
        steady = self._stabilised(now, replicas)
        limited = self._bounded(self._limited(now, replicas, steady))
        if limited != replicas:
            self._changes.append((now, limited - replicas))
        return limited

    def _bounded(self, replicas: int) -> int:
        return max(self.policy.least, min(self.policy.most, replicas))

    def _stabilised(self, now: float, replicas: int) -> int:
        up = min(desired for at, desired in self._desires if at >= now - self.policy.up.window_seconds)
        down = max(desired for at, desired in self._desires if at >= now - self.policy.down.window_seconds)
        return up if up > replicas else min(replicas, down)

    def _limited(self, now: float, replicas: int, wanted: int) -> int:
        if wanted == replicas:
            return replicas
        direction = self.policy.up if wanted > replicas else self.policy.down
        if direction.disabled:
            return replicas
        sign = 1 if wanted > replicas else -1
        allowed = [self._allowed(limit, now, replicas, sign) for limit in direction.limits]
        bound = _widest(direction, allowed, sign)
        return min(wanted, bound) if sign > 0 else max(wanted, bound)

    def _allowed(self, limit: Limit, now: float, replicas: int, sign: int) -> int:
        """Return the replicas that a limit allows, given what changed this way within its period."""
        longest = 1800.0
        while self._changes and self._changes[0][0] < now - longest:
            self._changes.popleft()
        changed = sum(by for at, by in self._changes if at > now - limit.seconds and by * sign > 0)
        before = replicas - changed
        if not limit.percent:
            return before + sign * limit.value
        share = before * (1 + sign * limit.value / 100)
        return math.ceil(share) if sign > 0 else math.floor(share)


def desire(replicas: int, ready: int, in_flight: float, target: float) -> int:
    """Return what the formula asks for, before windows and limits."""
    if not ready:
        return replicas
    ratio = in_flight / ready / target
    if abs(ratio - 1.0) <= TOLERANCE:
        return replicas
    if ratio > 1.0 and ready < replicas:
        with_idle = in_flight / replicas / target
        return replicas if with_idle <= 1.0 + TOLERANCE else math.ceil(with_idle * replicas)
    # A replica that is still starting says nothing of how few would do.
    return math.ceil(ratio * ready)


def _widest(direction: Direction, allowed: list[int], sign: int) -> int:
    far = max if (sign > 0) == direction.widest else min
    return far(allowed)
