"""Counts of several workers, which come and go: totals never fall, and only living workers have gauges."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from libs.telemetry.cells import CellsOfWorkers, MemoryCells, WorkerCells
from libs.telemetry.instruments import Instruments, Shape
from tests.unit.telemetry import counting_worker

ROOT = Path(__file__).parents[3]
WORKERS = 4
ROUNDS = 12
REQUESTS = 10_000


class Worker:
    """A process that counts; it can be killed at any time."""

    def __init__(self, folder: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", counting_worker.__name__, str(folder)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        self._expect("ready")

    def count(self, requests: int) -> None:
        assert self._process.stdin is not None
        print(requests, file=self._process.stdin, flush=True)
        self._expect("counted")

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()

    def _expect(self, word: str) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == word


def watching(folder: Path) -> CollectorRegistry:
    """Return a registry with the metrics of the workers, as their parent sees them."""
    registry = CollectorRegistry()
    instruments = Instruments(registry, CellsOfWorkers(folder))
    for _ in range(2):
        instruments.mirror(Shape("counter", "requests", "Requests.", ["method"]))
        instruments.mirror(Shape("histogram", "request_seconds", "Seconds.", [], [0.1, 1.0]))
        instruments.mirror(Shape("gauge", "memory_bytes", "Memory of a worker.", []))
    return registry


def total(registry: CollectorRegistry) -> float:
    return sum(
        sample.value for metric in registry.collect() for sample in metric.samples if sample.name == "requests_total"
    )


def living(registry: CollectorRegistry) -> int:
    return sum(len(metric.samples) for metric in registry.collect() if metric.name == "memory_bytes")


def test_killed_workers_take_no_counts_with_them(tmp_path: Path) -> None:
    """Field case MON-01."""
    registry = watching(tmp_path)
    workers = [Worker(tmp_path) for _ in range(WORKERS)]
    assert living(registry) == WORKERS
    files = sorted(path.name for path in tmp_path.iterdir())
    before, counted = 0.0, 0
    for number in range(ROUNDS):
        share = REQUESTS // ROUNDS if number < ROUNDS - 1 else REQUESTS - counted
        workers[number % WORKERS].count(share)
        counted += share
        now = total(registry)
        assert now >= before
        before = now
        workers[number % WORKERS].kill()
        assert living(registry) == WORKERS - 1
        assert total(registry) == counted
        workers[number % WORKERS] = Worker(tmp_path)
        assert living(registry) == WORKERS
    assert total(registry) == REQUESTS
    assert registry.get_sample_value("request_seconds_bucket", {"le": "0.1"}) == REQUESTS
    assert sorted(path.name for path in tmp_path.iterdir()) == files
    for worker in workers:
        worker.kill()
    assert (living(registry), total(registry)) == (0, REQUESTS)


def test_a_key_that_a_kill_cut_off_is_forgotten(tmp_path: Path) -> None:
    first = WorkerCells(tmp_path)
    first.values[first.row(("a", "x"), 1)] = 3.0
    first.close()
    with (tmp_path / "0.keys").open("ab") as file:
        file.write(b'[1, "a", "y')
    second = WorkerCells(tmp_path)
    assert second.slot == 0
    assert list(second.known()) == [("a", "x")]
    second.values[second.row(("a", "z"), 1)] = 4.0
    assert [(row.key, row.values) for row in second.rows()] == [(("a", "x"), (3.0,)), (("a", "z"), (4.0,))]
    second.close()


def test_cells_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("libs.telemetry.cells.MAX_CELLS", 4)
    cells = MemoryCells()
    assert (cells.row(("a",), 2), cells.row(("b",), 2), cells.row(("a",), 2)) == (0, 2, 0)
    for key, width in ((("c",), 1), (("a",), 1)):
        with pytest.raises(ValueError, match="cells"):
            cells.row(key, width)


def test_a_worker_that_follows_keeps_to_the_bound_on_labels(tmp_path: Path) -> None:
    for number in range(3):
        registry = CollectorRegistry()
        cells = WorkerCells(tmp_path)
        calls = Instruments(registry, cells).counter("calls", "Calls.", ["who"], limit=2)
        for who in ("a", "b"):
            calls.add(f"{who}{number}")
        cells.close()
    cells = WorkerCells(tmp_path)
    registry = CollectorRegistry()
    Instruments(registry, cells).counter("calls", "Calls.", ["who"], limit=2)
    assert generate_latest(registry).decode().count("calls_total{") == 3
    assert registry.get_sample_value("calls_total", {"who": "other"}) == 4
    cells.close()
