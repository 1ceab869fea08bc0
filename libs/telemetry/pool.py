"""Thread pools that can be seen: how many jobs run, how many wait for a thread, and for how long they waited."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from libs.telemetry.instruments import SECONDS, Instruments

P = ParamSpec("P")
T = TypeVar("T")


class ObservedPool(ThreadPoolExecutor):
    """A pool of threads that counts its jobs.

    Attributes:
        name: of the pool, and of its threads.
        threads: how many jobs run at once.
    """

    def __init__(self, threads: int, name: str) -> None:
        super().__init__(threads, name)
        self.name, self.threads = name, threads
        self._counting = threading.Lock()
        self._waiting = self._busy = 0
        self._counts = [0.0] * (len(SECONDS) + 1)
        self._waited = 0.0

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See ``ThreadPoolExecutor``."""
        submitted = time.perf_counter()

        def work() -> T:
            self._begin(time.perf_counter() - submitted)
            try:
                return fn(*args, **kwargs)
            finally:
                with self._counting:
                    self._busy -= 1

        with self._counting:
            self._waiting += 1
        try:
            future = super().submit(work)
        except RuntimeError:  # it is shut down
            with self._counting:
                self._waiting -= 1
            raise
        future.add_done_callback(self._forget_unstarted)
        return future

    def _begin(self, waited: float) -> None:
        with self._counting:
            self._waiting -= 1
            self._busy += 1
            self._waited += waited
            self._counts[bisect_left(SECONDS, waited)] += 1

    def _forget_unstarted(self, future: Future[T]) -> None:
        if future.cancelled():
            with self._counting:
                self._waiting -= 1

    def load(self) -> tuple[int, int]:
        """Return (jobs that wait for a thread, jobs that run)."""
        with self._counting:
            return self._waiting, self._busy

    def waits(self) -> tuple[Sequence[float], Sequence[float], float]:
        """Return how long jobs waited, as a ``Distribution``."""
        with self._counting:
            return SECONDS, tuple(self._counts), self._waited


def observe_pools(instruments: Instruments, pools: Sequence[ObservedPool]) -> None:
    """Show pools, those that are added to the list later included."""
    label = ["pool"]
    instruments.read_gauge(
        "hedgerow_pool_waiting", "Jobs that wait for a thread.", lambda: {(p.name,): p.load()[0] for p in pools}, label
    )
    instruments.read_gauge(
        "hedgerow_pool_busy", "Threads at work.", lambda: {(p.name,): p.load()[1] for p in pools}, label
    )
    instruments.read_gauge(
        "hedgerow_pool_threads", "Threads there may be.", lambda: {(p.name,): p.threads for p in pools}, label
    )
    instruments.read_histogram(
        "hedgerow_pool_wait_seconds",
        "Seconds a job waited for a thread.",
        lambda: {(p.name,): p.waits() for p in pools},
        label,
    )
