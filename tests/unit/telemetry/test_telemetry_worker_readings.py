"""What workers read of themselves, added up: counts never go back, gauges are of the living."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry

from libs.telemetry.instruments import Distribution, Instruments
from libs.telemetry.worker_readings import WorkerReadings, as_message


class Worker:
    """A worker that reads what it is told to."""

    def __init__(self, readings: WorkerReadings, name: str) -> None:
        self.counts: Mapping[tuple[str, ...], float] = {}
        self.waits: Mapping[tuple[str, ...], Distribution] = {}
        self._readings, self._name = readings, name
        self._instruments = Instruments(CollectorRegistry())
        self._instruments.read_counter("rows", "Rows.", lambda: self.counts, ["model"])
        self._instruments.read_gauge("waiting", "Waiting.", lambda: self.counts, ["model"])
        self._instruments.read_histogram("wait_seconds", "Waits.", lambda: self.waits, ["model"])

    def tell(self) -> None:
        """Tell the parent, as over the wire."""
        self._readings.update(self._name, json.loads(json.dumps(as_message(self._instruments.readings()))))


@pytest.fixture
def readings() -> WorkerReadings:
    return WorkerReadings()


@pytest.fixture
def registry(readings: WorkerReadings) -> CollectorRegistry:
    made = CollectorRegistry()
    made.register(readings)
    return made


def rows(registry: CollectorRegistry, model: str) -> float | None:
    return registry.get_sample_value("rows_total", {"model": model})


def test_counts_outlive_a_worker_and_gauges_do_not(readings: WorkerReadings, registry: CollectorRegistry) -> None:
    first, second = Worker(readings, "0"), Worker(readings, "1")
    first.counts, second.counts = {("a",): 3.0}, {("a",): 4.0}
    first.tell()
    second.tell()
    assert rows(registry, "a") == 7.0
    assert registry.get_sample_value("waiting", {"model": "a", "worker": "1"}) == 4.0
    readings.ended("0")
    assert rows(registry, "a") == 7.0
    assert registry.get_sample_value("waiting", {"model": "a", "worker": "0"}) is None
    successor = Worker(readings, "0")
    successor.tell()
    assert rows(registry, "a") == 7.0
    successor.counts = {("a",): 1.0}
    successor.tell()
    assert rows(registry, "a") == 8.0


def test_a_series_that_comes_back_is_not_counted_twice(readings: WorkerReadings, registry: CollectorRegistry) -> None:
    """A model that is rolled back to begins anew; one whose reading failed once does not."""
    first, second = Worker(readings, "0"), Worker(readings, "1")
    first.counts = second.counts = {("a",): 5.0}
    second.tell()
    for counts in ({("a",): 5.0}, {}, {("a",): 6.0}, {("a",): 2.0}):
        first.counts = counts
        first.tell()
        assert rows(registry, "a") == {5.0: 10.0, None: 10.0, 6.0: 11.0, 2.0: 13.0}[counts.get(("a",))]


def test_a_series_of_nobody_is_forgotten(readings: WorkerReadings, registry: CollectorRegistry) -> None:
    worker = Worker(readings, "0")
    worker.counts = {("a",): 5.0}
    worker.tell()
    worker.counts = {("b",): 1.0}
    worker.tell()
    assert (rows(registry, "a"), rows(registry, "b")) == (None, 1.0)
    worker.counts = {("a",): 2.0}
    worker.tell()
    assert rows(registry, "a") == 2.0


def test_a_histogram_begins_anew_as_a_whole(readings: WorkerReadings, registry: CollectorRegistry) -> None:
    worker = Worker(readings, "0")
    for counts, total in (([3.0, 1.0, 0.0], 2.0), ([1.0, 2.0, 0.0], 1.0)):
        worker.waits = {("a",): ((0.1, 1.0), counts, total)}
        worker.tell()
    buckets = {
        bound: registry.get_sample_value("wait_seconds_bucket", {"model": "a", "le": bound})
        for bound in ("0.1", "1.0", "+Inf")
    }
    assert buckets == {"0.1": 4.0, "1.0": 7.0, "+Inf": 7.0}
    assert registry.get_sample_value("wait_seconds_sum", {"model": "a"}) == 3.0


def test_a_reading_that_fails_takes_no_other_with_it(readings: WorkerReadings, registry: CollectorRegistry) -> None:
    instruments = Instruments(CollectorRegistry())

    def away() -> dict[tuple[str, ...], float]:
        raise ConnectionError("the database is away")

    instruments.read_gauge("broken", "Asks a database.", away)
    instruments.read_gauge("sound", "Does not.", lambda: {(): 1.0})
    readings.update("0", as_message(instruments.readings()))
    assert registry.get_sample_value("sound", {"worker": "0"}) == 1.0
