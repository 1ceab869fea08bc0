"""Advice on size follows from two readings of the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from libs.telemetry.instruments import Instruments
from suite.right_sizing import MIB, Families, model_usages, usage


def reading(
    cpu: float,
    *,
    memory: float = 0.0,
    children: float = 0.0,
    calls: float = 0.0,
    rows: float = 0.0,
    workers: Sequence[str] = (),
) -> Families:
    registry = CollectorRegistry()
    instruments = Instruments(registry)
    instruments.read_counter("process_cpu_seconds", "x", lambda: {(): cpu})
    instruments.read_gauge("process_resident_memory_bytes", "x", lambda: {(): memory})
    instruments.read_counter("hedgerow_children_cpu_seconds", "x", lambda: {(): children})
    instruments.read_counter("hedgerow_rpc_handled", "x", lambda: {("/a", "OK"): calls}, ["method", "code"])
    if workers:
        started = {(worker,): 1.0 for worker in workers}
        instruments.read_gauge("process_start_time_seconds", "x", lambda: started, ["worker"])
    else:
        instruments.read_gauge("process_start_time_seconds", "x", lambda: {(): 1.0})
    labels = ["deployment", "version"]
    instruments.read_counter("hedgerow_model_predictions", "x", lambda: {("credit", "3"): rows}, labels)
    instruments.read_counter("hedgerow_model_busy_seconds", "x", lambda: {("credit", "3"): rows / 100}, labels)
    return {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}


def test_a_service_under_load() -> None:
    before, after = reading(10, memory=90 * MIB, calls=5), reading(13, memory=100 * MIB, children=1, calls=105)
    found = usage("features", before, after, 10.0)
    assert (found.calls, found.cpu_seconds, found.idle_share, found.memory_mib) == (100, 4.0, 0.6, 100)
    assert (found.cpu_request_millicores, found.memory_request_mib, found.memory_limit_mib) == (600, 112, 192)
    assert found.advice.startswith("fits")


@pytest.mark.parametrize(
    ("cpu", "advice"), [(0.1, "idle"), (3.0, "fits"), (9.0, "near one core"), (25.0, "near one core")]
)
def test_advice_goes_by_the_share_of_a_core(cpu: float, advice: str) -> None:
    found = usage("x", reading(0), reading(cpu), 10.0)
    assert found.advice.startswith(advice)
    assert found.idle_share == max(0.0, round(1 - cpu / 10, 4))
    assert found.cpu_request_millicores >= 50


def test_a_service_that_started_again_has_counted_from_nothing() -> None:
    assert usage("x", reading(100, calls=50), reading(2, calls=3), 10.0).cpu_seconds == 2.0
    assert usage("x", reading(100, calls=50), reading(2, calls=3), 10.0).calls == 3


@pytest.mark.parametrize(("rows", "advice"), [(0, "nobody asked"), (100, "fits"), (900, "near the limit")])
def test_a_model(rows: float, advice: str) -> None:
    (found,) = model_usages("inference", reading(0, rows=50), reading(0, rows=50 + rows), 10.0)
    assert (found.deployment, found.version, found.predictions) == ("credit", "3", rows)
    assert found.model_seconds == rows / 100
    assert found.advice.startswith(advice)


@pytest.mark.parametrize(
    ("workers", "advice", "idle"),
    [((), "near", 0.0), (("0", "parent"), "near", 0.0), (("0", "1", "2", "3", "parent"), "fits", 0.7)],
)
def test_each_worker_has_a_core_and_a_thread_of_its_own(workers: Sequence[str], advice: str, idle: float) -> None:
    before, after = reading(0, workers=workers), reading(12, rows=1200, workers=workers)
    found = usage("inference", before, after, 10.0)
    (model,) = model_usages("inference", before, after, 10.0)
    assert found.advice.startswith(advice)
    assert model.advice.startswith(advice)
    assert found.idle_share == model.idle_share == idle
    assert found.cpu_request_millicores == 1800
