"""The queues: each replica takes its calls one after the other, in the order in which they came.

A service is one event loop, hence one server for each replica; calls go round the replicas that serve. Every call is
simulated. With services ``s`` and arrivals ``t`` the calls of one replica end at ``C_i + max(t_j - C_(j-1), j <= i)``,
where ``C`` is the running sum of ``s``: Lindley's recursion without its loop, so that a day is a matter of seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def end_times(arrivals: Floats, services: Floats, free_at: float) -> Floats:
    """Return when each call ends on one server.

    Args:
        arrivals: shape (n,), seconds, sorted.
        services: shape (n,), seconds of work.
        free_at: when the server is done with what came before.
    """
    if not len(arrivals):
        return arrivals
    done = np.cumsum(services)
    slack = arrivals - (done - services)
    slack[0] = max(slack[0], free_at)
    ends: Floats = done + np.maximum.accumulate(slack)
    return ends


@dataclass
class Replica:
    """One server.

    Attributes:
        ready_at: when it begins to serve.
        free_at: when it is done with all it took.
        ends: when the calls end that were still in progress at the last look.
    """

    ready_at: float
    free_at: float = 0.0
    ends: Floats = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class Window:
    """What came of the calls of an interval.

    Attributes:
        delays: seconds in the queue of each call that was taken.
        refused: calls that found the replica full.
        in_flight: calls in progress at its end, on replicas that serve.
        busy_seconds: work that was taken on.
    """

    delays: Floats
    refused: int
    in_flight: int
    busy_seconds: float


@dataclass
class Station:
    """The replicas of one service.

    Attributes:
        mean: seconds of work of a call on average; exponentially distributed.
        max_calls: calls in progress on one replica beyond which it refuses.
        start_seconds: from the wish for a replica until it serves.
    """

    mean: float
    max_calls: int
    start_seconds: float
    chance: np.random.Generator
    replicas: list[Replica] = field(default_factory=list)

    def scale(self, count: int, now: float) -> None:
        """Add replicas, or take the youngest away; those end what they took, as a drain does."""
        while len(self.replicas) < count:
            self.replicas.append(Replica(now + self.start_seconds))
        del self.replicas[count:]

    def ready(self, now: float) -> list[Replica]:
        """Return those that serve."""
        return [replica for replica in self.replicas if replica.ready_at <= now]

    def run(self, arrivals: Floats, end: float) -> Window:
        """Take the calls of an interval that ends at ``end``.

        What a full replica refuses is judged by the wait that a call would meet, so a refusal comes at most a little early.
        """
        begin = arrivals[0] if len(arrivals) else end
        serving = self.ready(begin)
        delays, refused, busy, in_flight = [], 0, 0.0, 0
        for place, replica in enumerate(serving):
            times = arrivals[place :: len(serving)]
            work = self.chance.exponential(self.mean, len(times))
            kept, lost = self._admit(replica, times, work)
            ends = end_times(times[kept], work[kept], replica.free_at)
            delays.append(ends - work[kept] - times[kept])
            refused += lost
            busy += float(work[kept].sum())
            if len(ends):
                replica.free_at = float(ends[-1])
            replica.ends = np.concatenate([replica.ends, ends])
            replica.ends = replica.ends[replica.ends > end]
            in_flight += len(replica.ends)
        if not serving:
            refused += len(arrivals)
        return Window(np.concatenate(delays) if delays else np.empty(0), refused, in_flight, busy)

    def _admit(self, replica: Replica, times: Floats, work: Floats) -> tuple[npt.NDArray[np.bool_], int]:
        """Return which calls find room, and how many do not."""
        most = self.max_calls * self.mean
        kept = np.ones(len(times), dtype=bool)
        waits = end_times(times, work, replica.free_at) - work - times
        if len(waits) and waits.max() > most:
            # A leaky bucket: what goes in while it is full is lost. Only in overload, so a loop will do.
            free = replica.free_at
            for index, (time, seconds) in enumerate(zip(times.tolist(), work.tolist(), strict=True)):
                if free - time > most:
                    kept[index] = False
                else:
                    free = max(free, time) + seconds
        return kept, int(len(times) - kept.sum())
