"""The metrics of a service of several workers, as those of one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector

from libs.runtime.worker_link import Answer, WorkerLink
from libs.telemetry import Instruments
from libs.telemetry.cells import CellsOfWorkers
from libs.telemetry.instruments import Shape
from libs.telemetry.worker_readings import WorkerReadings, as_message

ANSWER_SECONDS = 2.0
PARENT = "parent"
# Not the others: the processor time of its children, for one, is that of workers, who count it themselves.
READ_OF_PARENT = ("hedgerow_watch_", "hedgerow_certificate_")


class WorkersScrape(Collector):
    """Adds up cells and readings when somebody scrapes; the parent's own process counts as one more worker."""

    def __init__(self, folder: Path, workers: int) -> None:
        """Show no worker yet.

        Args:
            folder: in which the workers count.
            workers: how many there should be.
        """
        self._instruments = Instruments(CollectorRegistry(), CellsOfWorkers(folder))
        self._instruments.read_gauge(
            "hedgerow_workers_configured", "Workers that this service should have.", lambda: {(): workers}
        )
        self._instruments.read_gauge(
            "hedgerow_workers_serving", "Workers that run and have begun to serve.", lambda: {(): len(self._names)}
        )
        self._readings = WorkerReadings()
        self._names: dict[WorkerLink, str] = {}
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        PlatformCollector(registry=self._own)
        GCCollector(registry=self._own)
        self._parent = Instruments(CollectorRegistry())
        # Scrapes come in threads of their own.
        self._lock = threading.Lock()

    def show_parent(self, instruments: Instruments) -> None:
        """Show what the parent does for all of its workers, from now on: it follows, renews and keeps."""
        with self._lock:
            self._parent = instruments

    def add(self, link: WorkerLink) -> None:
        """Ask a worker from now on. Waits for a scrape to end."""
        with self._lock:
            self._names[link] = ""

    def remove(self, link: WorkerLink) -> None:
        """Take note that a worker is no more. Waits for a scrape to end."""
        with self._lock:
            if worker := self._names.pop(link, ""):
                self._readings.ended(worker)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with what it is now."""
        with self._lock:
            self._ask()
            done = (metric for metric in self._parent.readings() if metric.name.startswith(READ_OF_PARENT))
            self._readings.update(PARENT, as_message([*self._own.collect(), *done]))
            found = [*self._instruments.collect(), *self._readings.collect()]
        yield from found

    def _ask(self) -> None:
        for link in self._names:
            with contextlib.suppress(OSError):
                self._take(link, link.ask())
        deadline = time.monotonic() + ANSWER_SECONDS
        for link in self._names:
            # One that has just ended, or hangs, counts as it last answered.
            with contextlib.suppress(OSError):
                self._take(link, link.answer(deadline))

    def _take(self, link: WorkerLink, answer: Answer | None) -> None:
        if answer is None:
            return
        worker, shapes, readings = answer
        self._names[link] = worker
        self._readings.update(worker, readings)
        for shape in shapes:
            self._instruments.mirror(Shape(*shape))
