"""Every kind of call has a span, child of its caller's, that is the parent of what its handler does."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from hedgerow.errors import HedgerowError
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import Served, serving

PARENT = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
UNSAMPLED = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(0))


class Watched(Echo):
    """Notes the trace that its handlers run in."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []

    async def echo(self, request: Any, call: Any) -> Any:
        self.seen.append(trace.get_current_span().get_span_context().span_id)
        return request

    async def down(self, request: Any, call: Any) -> AsyncIterator[Any]:
        self.seen.append(trace.get_current_span().get_span_context().span_id)
        for _ in range(3):
            yield request


@contextlib.asynccontextmanager
async def traced(tmp_path: Path, exporter: InMemorySpanExporter) -> AsyncIterator[tuple[Served, Watched]]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    echo = Watched()
    async with serving(tmp_path, [echo_service(echo)]) as served:
        served.chain._tracer._tracer = provider.get_tracer("test")
        yield served, echo


async def messages(count: int) -> AsyncIterator[BytesValue]:
    for _ in range(count):
        yield BytesValue(value=b"1")


async def call_each_kind(served: Served) -> None:
    client = served.client(served.authority.user("ana"), DESCRIPTOR)
    await client.call("Echo", BytesValue(value=b"1"), timeout=10)
    assert [message async for message in client.stream("Down", BytesValue(value=b"3"), timeout=10)]
    await client.send("Up", messages(2), timeout=10)
    with pytest.raises(HedgerowError):
        await client.call("Fail", BytesValue(value=b"1"), timeout=10)
    async for _ in client.stream("Down", BytesValue(value=b"3"), timeout=10):
        break


@pytest.mark.parametrize("transport", ["aio", "lane"])
async def test_each_kind_of_call_is_traced(
    tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tests.support.serving.TRANSPORT", transport)
    exporter = InMemorySpanExporter()
    async with traced(tmp_path, exporter) as (served, echo):
        with trace.use_span(NonRecordingSpan(PARENT)):
            await call_each_kind(served)
    spans = exporter.get_finished_spans()
    assert sorted(span.name.rpartition("/")[2] for span in spans) == ["Down", "Down", "Echo", "Fail", "Up"]
    assert {span.context.trace_id for span in spans if span.context} == {PARENT.trace_id}
    assert {span.parent.span_id for span in spans if span.parent} == {PARENT.span_id}
    assert set(echo.seen) < {span.context.span_id for span in spans if span.context}
    # The spans of a context that ended elsewhere are not taken off twice.
    assert "context" not in caplog.text.lower()


async def test_a_trace_that_is_not_sampled_leaves_no_span(tmp_path: Path) -> None:
    exporter = InMemorySpanExporter()
    async with traced(tmp_path, exporter) as (served, _):
        with trace.use_span(NonRecordingSpan(UNSAMPLED)):
            await call_each_kind(served)
    assert exporter.get_finished_spans() == ()
