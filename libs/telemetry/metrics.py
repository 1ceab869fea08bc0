"""Metrics of calls: rate, failures, duration, queue delay and how full the server is.

Labels are registered methods, gRPC codes and the reasons of the contract, so all are bounded.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable

from prometheus_client import CollectorRegistry

from libs.telemetry.cells import Cells
from libs.telemetry.instruments import SECONDS, Instruments

MAX_METHODS = 128
MAX_OUTCOMES = 1024
MAX_REASONS = 64
# Shown as 0 from the start: an alert on the increase of a count would not see the first of a series that just began.
SHOWN_REASONS = (
    "ARTIFACT_UNTRUSTED",
    "AUDIT_BROKEN",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REVOKED",
    "DATA_CORRUPT",
    "OVERLOADED",
    "POLICY_DENIED",
    "PURPOSE_NOT_PERMITTED",
    "RATE_LIMITED",
)


class CallMetrics:
    """What each call adds to. Belongs to the event loop.

    Attributes:
        registry: what is scraped.
        instruments: to add metrics of the service beside these.
    """

    def __init__(self, registry: CollectorRegistry, cells: Cells | None = None) -> None:
        self.registry = registry
        self.instruments = instruments = Instruments(registry, cells)
        self._handled = instruments.counter(
            "hedgerow_rpc_handled", "Calls that ended, by method and code.", ["method", "code"], limit=MAX_OUTCOMES
        )
        self._failed = instruments.counter(
            "hedgerow_rpc_failures", "Calls that failed, by reason.", ["reason"], limit=MAX_REASONS
        )
        for reason in SHOWN_REASONS:
            self._failed.start((reason,))
        self._seconds = instruments.histogram(
            "hedgerow_rpc_seconds", "Duration of calls in seconds.", ["method"], limit=MAX_METHODS
        )
        self._queue = instruments.histogram(
            "hedgerow_rpc_queue_seconds", "Seconds from the arrival of a call to the start of its handler."
        )
        self._queue_start = self._queue.start(())
        self._in_flight: list[Callable[[], int]] = []
        self._capacity = 0
        instruments.read_gauge("hedgerow_rpc_in_flight", "Calls in progress.", self._read_in_flight)
        instruments.read_gauge(
            "hedgerow_rpc_capacity", "Calls in progress from which on new ones are refused.", self._read_capacity
        )
        self._outcomes: dict[tuple[str, str], tuple[int, int]] = {}

    def add_in_flight(self, count: Callable[[], int], capacity: int = 0) -> None:
        """Add a port's calls in progress, and how many it takes, to the gauges."""
        self._in_flight.append(count)
        self._capacity += capacity

    def _read_in_flight(self) -> dict[tuple[str, ...], float]:
        return {(): sum(count() for count in self._in_flight)}

    def _read_capacity(self) -> dict[tuple[str, ...], float]:
        return {(): self._capacity}

    def started(self, arrived: float) -> None:
        """Count the queue delay of a call whose handler starts now; ``arrived`` is of ``time.perf_counter``."""
        # As ``observe_at`` does, here because it runs for every call.
        seconds, values, first = time.perf_counter() - arrived, self._queue.values, self._queue_start
        values[first] += seconds
        values[first + 1 + bisect_left(SECONDS, seconds)] += 1

    def ended(self, method: str, code: str, seconds: float) -> None:
        """Count a call that ended."""
        cells = self._outcomes.get((method, code))
        if cells is None:
            cells = self._handled.start((method, code)), self._seconds.start((method,))
            if len(self._outcomes) < MAX_OUTCOMES:
                self._outcomes[method, code] = cells
        count, first = cells
        values = self._handled.values
        values[count] += 1
        values[first] += seconds
        values[first + 1 + bisect_left(SECONDS, seconds)] += 1

    def failed(self, reason: str) -> None:
        """Count why a call failed."""
        self._failed.add(reason)
