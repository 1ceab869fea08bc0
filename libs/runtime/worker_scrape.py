"""The metrics of a service of several workers, as those of one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, GCCollector, Metric, PlatformCollector, ProcessCollector
from prometheus_client.registry import Collector

from libs.runtime.worker_link import WorkerLink
from libs.telemetry import Instruments
from libs.telemetry.cells import CellsOfWorkers
from libs.telemetry.instruments import Shape
from libs.telemetry.worker_readings import WorkerReadings, as_message

ANSWER_SECONDS = 2.0
PARENT = "parent"


class WorkersScrape(Collector):
    """Adds up cells and readings when somebody scrapes; the parent's own process counts as one more worker."""

    def __init__(self, folder: Path) -> None:
        """Take the folder in which the workers count."""
        self._instruments = Instruments(CollectorRegistry(), CellsOfWorkers(folder))
        self._readings = WorkerReadings()
        self._names: dict[WorkerLink, str] = {}
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        PlatformCollector(registry=self._own)
        GCCollector(registry=self._own)
        # Scrapes come in threads of their own.
        self._lock = threading.Lock()

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
            self._readings.update(PARENT, as_message(self._own.collect()))
            found = [*self._instruments.collect(), *self._readings.collect()]
        yield from found

    def _ask(self) -> None:
        for link in self._names:
            with contextlib.suppress(OSError):
                link.ask()
        deadline = time.monotonic() + ANSWER_SECONDS
        for link in self._names:
            # One that has just ended, or hangs, counts as it last answered.
            with contextlib.suppress(OSError):
                if (answer := link.answer(deadline)) is not None:
                    worker, shapes, readings = answer
                    self._names[link] = worker
                    self._readings.update(worker, readings)
                    for shape in shapes:
                        self._instruments.mirror(Shape(*shape))
