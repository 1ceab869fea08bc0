"""A day under one policy: load, queues and the autoscaler, in steps of the autoscaler's period."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulator.autoscaler import Autoscaler
from simulator.basis import Basis
from simulator.demand import DAY_SECONDS, Day
from simulator.policies import Policy
from simulator.station import Station

# Of the kube-controller-manager, and of KEDA's polling in the manifests.
SYNC_SECONDS = 15.0
# A scheduled pod before its process starts: the node has the image. Assumed, not measured.
POD_SECONDS = 15.0
LATE_SECONDS = 1.0
MAX_CALLS = 128


@dataclass(frozen=True)
class Moment:
    """One step: its begin (seconds of the day), calls a second, replicas, and the delay in the queue (milliseconds)."""

    time: float
    rate: float
    replicas: int
    ready: int
    p50_ms: float
    p99_ms: float
    refused: int
    utilisation: float


@dataclass(frozen=True)
class Outcome:
    """A day.

    Attributes:
        name: of the policy, or of what was done instead.
        moments: by time.
        calls: that came.
        late: that waited longer than ``LATE_SECONDS``.
        refused: that found no room.
        replica_hours: that were paid for.
        changes: how often the number of replicas changed.
    """

    name: str
    moments: Sequence[Moment]
    calls: int
    late: int
    refused: int
    replica_hours: float
    changes: int

    @property
    def missed_percent(self) -> float:
        """Share of the calls that were late or refused."""
        return 100.0 * (self.late + self.refused) / self.calls if self.calls else 0.0


def replay(policy: Policy, basis: Basis, day: Day, *, fixed: int = 0, seconds: float = DAY_SECONDS) -> Outcome:
    """Run a day under a policy; with ``fixed`` replicas instead, the same day without one."""
    chance = np.random.default_rng(day.seed)
    station = Station(basis.mean_seconds, MAX_CALLS, POD_SECONDS + basis.start_seconds, chance)
    station.scale(fixed or policy.least, -station.start_seconds)
    autoscaler = Autoscaler(policy)
    moments: list[Moment] = []
    calls = late = refused = changes = 0
    for step in range(math.ceil(seconds / SYNC_SECONDS)):
        begin = step * SYNC_SECONDS
        arrivals = day.arrivals(begin, SYNC_SECONDS, chance)
        window = station.run(arrivals, begin + SYNC_SECONDS)
        count, ready = len(station.replicas), len(station.ready(begin))
        calls += len(arrivals)
        late += int((window.delays > LATE_SECONDS).sum())
        refused += window.refused
        p50, p99 = np.percentile(window.delays, [50, 99]) * 1000 if len(window.delays) else (0.0, 0.0)
        moments.append(
            Moment(
                begin, len(arrivals) / SYNC_SECONDS, count, ready, float(p50), float(p99), window.refused,
                window.busy_seconds / (SYNC_SECONDS * max(ready, 1)),
            )
        )  # fmt: skip
        if not fixed:
            end = begin + SYNC_SECONDS
            wanted = autoscaler.decide(end, count, len(station.ready(end)), window.in_flight)
            changes += wanted != count
            station.scale(wanted, end)
    hours = sum(moment.replicas for moment in moments) * SYNC_SECONDS / 3600.0
    name = f"{fixed} replicas, fixed" if fixed else policy.name
    return Outcome(name, moments, calls, late, refused, hours, changes)
