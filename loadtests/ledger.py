"""What a run got, in bounded space: latencies in buckets by service and second, sizes, refusals, and the generators' state.

Ledgers of several workers add up, and travel as plain JSON.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# Neighbouring buckets differ by 2 %, so a percentile is off by at most that.
_GROWTH = math.log(1.02)
MAX_ERRORS = 64
MAX_SECONDS = 14_400
OTHER = "other"


@dataclass(frozen=True, slots=True)
class Result:
    """One call.

    Attributes:
        service: whom it went to, or the group of users that its budget names.
        name: of the call.
        begin: seconds since 1970.
        seconds: until the answer, over all attempts.
        sent, received: bytes of the messages.
        error: empty, or ``CODE REASON``.
        attempts: how often it was sent.
    """

    service: str
    name: str
    begin: float
    seconds: float
    sent: int = 0
    received: int = 0
    error: str = ""
    attempts: int = 1


class Latencies:
    """Counts of latencies in buckets."""

    def __init__(self, buckets: Mapping[int, int] | None = None) -> None:
        self.buckets: dict[int, int] = dict(buckets or {})

    def add(self, seconds: float) -> None:
        """Count one."""
        bucket = _bucket(seconds)
        self.buckets[bucket] = self.buckets.get(bucket, 0) + 1

    def merge(self, other: Latencies) -> None:
        """Add another's counts."""
        for bucket, count in other.buckets.items():
            self.buckets[bucket] = self.buckets.get(bucket, 0) + count

    @property
    def count(self) -> int:
        """How many were counted."""
        return sum(self.buckets.values())

    def within(self, seconds: float) -> int:
        """Return how many took no longer than this, up to the width of a bucket."""
        last = _bucket(seconds)
        return sum(count for bucket, count in self.buckets.items() if bucket <= last)

    def percentile_ms(self, share: float) -> float:
        """Return the upper bound of the bucket that holds a percentile, in milliseconds; NaN when there is nothing."""
        wanted, seen = share * self.count, 0
        for bucket in sorted(self.buckets):
            seen += self.buckets[bucket]
            if seen >= wanted:
                return math.exp(bucket * _GROWTH)
        return math.nan


def _bucket(seconds: float) -> int:
    return math.ceil(math.log(max(seconds, 1e-6) * 1000.0) / _GROWTH)


class Tally:
    """Counts of one service, or of one service in one second."""

    def __init__(self) -> None:
        self.latencies = Latencies()
        self.failed = self.retried = self.sent = self.received = 0

    def add(self, result: Result) -> None:
        """Count a call; what failed has no latency."""
        if result.error:
            self.failed += 1
        else:
            self.latencies.add(result.seconds)
        self.retried += result.attempts > 1
        self.sent += result.sent
        self.received += result.received

    def merge(self, other: Tally) -> None:
        """Add another's counts."""
        self.latencies.merge(other.latencies)
        self.failed += other.failed
        self.retried += other.retried
        self.sent += other.sent
        self.received += other.received

    @property
    def calls(self) -> int:
        """How many calls ended."""
        return self.latencies.count + self.failed

    def to_json(self) -> list[Any]:
        """Return it as plain values; keys are text, as in every JSON."""
        buckets = {str(bucket): count for bucket, count in self.latencies.buckets.items()}
        return [buckets, self.failed, self.retried, self.sent, self.received]

    @classmethod
    def from_json(cls, value: list[Any]) -> Tally:
        """Return what ``to_json`` gave."""
        tally = cls()
        tally.latencies = Latencies({int(bucket): count for bucket, count in value[0].items()})
        tally.failed, tally.retried, tally.sent, tally.received = value[1:]
        return tally


class Ledger:
    """Everything of a run.

    Attributes:
        services: by service.
        seconds: by second since 1970, then by service; at most ``MAX_SECONDS``.
        errors: ``service: CODE REASON`` to how often; at most ``MAX_ERRORS``, the rest under ``other``.
        cpu: busiest share of one core in each report, by generator process, and the number of reports.
        lag: how late the generators' event loops ran.
    """

    def __init__(self) -> None:
        self.services: dict[str, Tally] = {}
        self.seconds: dict[int, dict[str, Tally]] = {}
        self.errors: dict[str, int] = {}
        self.cpu: dict[str, list[float]] = {}
        self.lag = Latencies()

    def add(self, result: Result) -> None:
        """Count a call at the second of its end."""
        self.services.setdefault(result.service, Tally()).add(result)
        second = int(result.begin + result.seconds)
        if second in self.seconds or len(self.seconds) < MAX_SECONDS:
            self.seconds.setdefault(second, {}).setdefault(result.service, Tally()).add(result)
        if result.error:
            self._count_error(f"{result.service}: {result.error}", 1)

    def add_generator(self, process: str, cpu: float, seconds: float, lags: Iterable[float]) -> None:
        """Count CPU seconds that a generator's process used in an interval, and how late its loop ran (seconds)."""
        total = self.cpu.setdefault(process, [0.0, 0.0])
        total[0] += cpu
        total[1] += seconds
        for lag in lags:
            self.lag.add(lag)

    def _count_error(self, error: str, count: int) -> None:
        key = error if error in self.errors or len(self.errors) < MAX_ERRORS else OTHER
        self.errors[key] = self.errors.get(key, 0) + count

    def busiest(self) -> float:
        """Return the share of one core that the busiest generator process used over the run."""
        return max((cpu / seconds for cpu, seconds in self.cpu.values() if seconds > 0), default=0.0)

    def merge(self, other: Ledger) -> None:
        """Add another ledger."""
        for service, tally in other.services.items():
            self.services.setdefault(service, Tally()).merge(tally)
        for second, tallies in other.seconds.items():
            if second in self.seconds or len(self.seconds) < MAX_SECONDS:
                for service, tally in tallies.items():
                    self.seconds.setdefault(second, {}).setdefault(service, Tally()).merge(tally)
        for error, count in other.errors.items():
            self._count_error(error, count)
        for process, (cpu, seconds) in other.cpu.items():
            self.add_generator(process, cpu, seconds, ())
        self.lag.merge(other.lag)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "services": {service: tally.to_json() for service, tally in self.services.items()},
            "seconds": {
                str(second): {service: tally.to_json() for service, tally in tallies.items()}
                for second, tallies in self.seconds.items()
            },
            "errors": self.errors,
            "cpu": self.cpu,
            "lag": {str(bucket): count for bucket, count in self.lag.buckets.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ledger:
        """Return what ``to_json`` gave."""
        ledger = cls()
        ledger.services = {service: Tally.from_json(tally) for service, tally in value["services"].items()}
        ledger.seconds = {
            int(second): {service: Tally.from_json(tally) for service, tally in tallies.items()}
            for second, tallies in value["seconds"].items()
        }
        ledger.errors = dict(value["errors"])
        ledger.cpu = {process: list(total) for process, total in value["cpu"].items()}
        ledger.lag = Latencies({int(bucket): count for bucket, count in value["lag"].items()})
        return ledger
