"""Metrics say what was counted, in the form Prometheus reads, and their labels are bounded."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from libs.telemetry import CallMetrics
from libs.telemetry.instruments import MAX_LABEL, MAX_LABEL_SETS, Instruments
from libs.telemetry.metrics import MAX_METHODS, MAX_OUTCOMES, MAX_REASONS, SHOWN_REASONS
from libs.telemetry.pool import ObservedPool, observe_pools


def scraped(registry: CollectorRegistry) -> dict[str, Metric]:
    return {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}


def test_a_histogram_is_cumulative_and_closed_above() -> None:
    registry = CollectorRegistry()
    seconds = Instruments(registry).histogram("seconds", "Seconds.", ["method"], bounds=[1.0, 2.0])
    for value in (0.5, 1.0, 1.5, 9.0):
        seconds.observe(value, "a")
    samples = [(s.name, s.labels.get("le"), s.value) for s in scraped(registry)["seconds"].samples]
    assert samples == [
        ("seconds_bucket", "1.0", 2.0),
        ("seconds_bucket", "2.0", 3.0),
        ("seconds_bucket", "+Inf", 4.0),
        ("seconds_count", None, 4.0),
        ("seconds_sum", None, 12.0),
    ]


def test_gauges_and_readings() -> None:
    registry = CollectorRegistry()
    instruments = Instruments(registry)
    instruments.gauge("depth", "Depth.", ["queue"]).set(3.0, "a")
    heights: Mapping[tuple[str, ...], float] = {("b",): 4.0, ("a",): 2.0}
    instruments.read_gauge("height", "Height.", lambda: heights, ["place"])
    instruments.read_counter("sold", "Sold.", lambda: {(): 7.0})
    instruments.read_histogram("sizes", "Sizes.", lambda: {("x",): ([1, 2], [1, 0, 2], 9.0)}, ["of"])
    value = registry.get_sample_value
    assert (value("depth", {"queue": "a"}), value("height", {"place": "b"}), value("sold_total")) == (3.0, 4.0, 7.0)
    assert value("sizes_bucket", {"of": "x", "le": "2.0"}) == 1
    assert (value("sizes_count", {"of": "x"}), value("sizes_sum", {"of": "x"})) == (3, 9.0)


def test_a_counter_without_labels_is_there_before_it_counts() -> None:
    registry = CollectorRegistry()
    Instruments(registry).counter("calls", "Calls.")
    assert registry.get_sample_value("calls_total") == 0


def test_ten_thousand_callers_make_no_more_series_than_the_bound() -> None:
    """Field case MON-03: names of any kind that callers choose."""
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    models = metrics.instruments.counter("predictions", "Predictions.", ["model"])
    readings: dict[tuple[str, ...], float] = {}
    metrics.instruments.read_counter("reads", "Reads.", lambda: readings, ["view"])
    for number in range(10_000):
        metrics.ended(f"/made.up.v1.Service{number}/Method", f"CODE_{number}", 0.001)
        metrics.failed(f"REASON_{number}")
        models.add(f"model-{number}-" + "x" * 1000)
        readings[(f"view-{number}",)] = 1.0
    families = scraped(registry)
    series = {name: len({tuple(sorted(s.labels.items())) for s in f.samples}) for name, f in families.items()}
    assert series["hedgerow_rpc_handled"] == MAX_OUTCOMES + 1
    assert series["hedgerow_rpc_failures"] == MAX_REASONS + 1
    assert len({s.labels["method"] for s in families["hedgerow_rpc_seconds"].samples}) == MAX_METHODS + 1
    assert (series["predictions"], series["reads"]) == (MAX_LABEL_SETS + 1, MAX_LABEL_SETS + 1)
    assert max(len(s.labels["model"]) for s in families["predictions"].samples) == MAX_LABEL
    for name in ("hedgerow_rpc_handled", "predictions", "reads"):
        assert sum(s.value for s in families[name].samples if s.name.endswith("_total")) == 10_000
    assert registry.get_sample_value("reads_total", {"view": "other"}) == 10_000 - MAX_LABEL_SETS


def test_what_alerts_look_for_is_shown_from_the_start() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    metrics.add_in_flight(lambda: 3, 100)
    metrics.add_in_flight(lambda: 1, 20)
    value = registry.get_sample_value
    assert [value("hedgerow_rpc_failures_total", {"reason": reason}) for reason in SHOWN_REASONS] == [0.0] * len(
        SHOWN_REASONS
    )
    assert (value("hedgerow_rpc_in_flight"), value("hedgerow_rpc_capacity")) == (4, 120)


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_pool_tells_who_waits(cancelled: bool) -> None:
    registry = CollectorRegistry()
    pool = ObservedPool(1, "disk")
    pools: list[ObservedPool] = []
    observe_pools(Instruments(registry), pools)
    pools.append(pool)
    go, began = threading.Event(), threading.Event()

    def work() -> str:
        began.set()
        go.wait()
        return "done"

    first, second = pool.submit(work), pool.submit(str, 5)
    began.wait()

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"hedgerow_pool_{name}", {"pool": "disk"})

    assert (value("threads"), value("busy"), value("waiting")) == (1, 1, 1)
    if cancelled:
        assert second.cancel()
        assert value("waiting") == 0
    go.set()
    assert first.result() == "done"
    pool.shutdown()
    assert (value("busy"), value("waiting"), value("wait_seconds_count")) == (0, 0, 1 if cancelled else 2)
