"""Logs say what happened and where, and never what the data was; metrics have bounded labels."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode
from prometheus_client import CollectorRegistry

from libs.telemetry import CallMetrics, Tracer, configure_logging, fault_location, get_logger
from libs.telemetry.logs import _LibraryHandler
from tests.unit.telemetry.failing_program import DETAIL

ROOT = Path(__file__).parents[3]
PATIENCE_SECONDS = 120


@pytest.fixture
def own_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Logs of the tests that follow go where they went before."""
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    for module, hook in ((sys, "excepthook"), (sys, "unraisablehook"), (threading, "excepthook")):
        monkeypatch.setattr(module, hook, getattr(module, hook))
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("own_logging")
def test_logs_are_bounded_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("test")
    get_logger().info("something_happened", count=3, text="x" * 5000)
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["count"], line["service"], line["level"]) == ("something_happened", 3, "test", "info")
    assert len(line["text"]) <= 501


def test_what_libraries_log_and_nobody_catches_is_told_without_what_it_says() -> None:
    """A traceback, and what an error says, quote the data that broke it."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.unit.telemetry.failing_program"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert DETAIL not in ended.stdout + ended.stderr
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    told = [(line["event"], line.get("logger"), line["error"], line["service"]) for line in lines]
    assert told == [
        ("library", "library", "ValueError", "test"),
        ("library", "asyncio", "ValueError", "test"),
        *[("uncaught", None, "ValueError", "test")] * 3,
    ]
    assert {line["where"].partition(":")[0] for line in lines} == {"tests/unit/telemetry/failing_program.py"}


@pytest.mark.usefixtures("own_logging")
@pytest.mark.parametrize("fault", [BrokenPipeError(), ValueError("I/O operation on closed file")])
def test_a_library_does_not_fail_when_its_log_cannot_be_written(
    fault: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            raise fault

    monkeypatch.setattr(sys, "stderr", Gone())
    configure_logging("test")
    _LibraryHandler().handle(logging.makeLogRecord({"name": "library"}))
    assert written


def test_a_fault_is_told_by_its_place_and_not_by_its_message() -> None:
    try:
        int("a personal detail")
    except ValueError as error:
        where = fault_location(error)
    assert where.startswith("tests/unit/telemetry/test_telemetry.py:")
    assert "personal" not in where


def test_calls_are_counted_by_method_and_code() -> None:
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    for code in ("OK", "OK", "NOT_FOUND"):
        metrics.ended("/a/b", code, 0.002)
    value = registry.get_sample_value
    assert value("hedgerow_rpc_handled_total", {"method": "/a/b", "code": "OK"}) == 2
    assert value("hedgerow_rpc_seconds_count", {"method": "/a/b"}) == 3
    assert value("hedgerow_rpc_seconds_bucket", {"method": "/a/b", "le": "0.0025"}) == 3


def test_a_span_keeps_the_type_of_an_exception_and_nothing_it_says() -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = Tracer("test", 1.0)
    tracer._tracer = provider.get_tracer("test")
    with pytest.raises(ValueError, match="personal"), tracer.span("/a/b", {}):
        int("a personal detail")
    (span,) = exporter.get_finished_spans()
    assert "personal" not in span.to_json()
    assert (span.status.status_code, (span.attributes or {})["error.type"]) == (StatusCode.ERROR, "ValueError")
