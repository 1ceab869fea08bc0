"""OpenTelemetry traces across hops.

A call that is not sampled costs nothing but a look at one header: the span machinery is entered only when the caller's
``traceparent`` says sampled, or when this process is the head of the trace and its dice say so.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from opentelemetry import trace
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

MAX_FILE_BYTES = 16 * 1024 * 1024


class Tracer:
    """Opens a server span for a sampled call."""

    def __init__(self, service: str, ratio: float) -> None:
        self._tracer = trace.get_tracer(f"hedgerow.{service}")
        self._ratio = ratio

    @contextlib.contextmanager
    def span(self, name: str, metadata: Mapping[str, str]) -> Iterator[None]:
        """Open a span named for the method, child of the caller's; of an exception it keeps the type alone."""
        with self._tracer.start_as_current_span(
            name,
            context=extract(metadata),
            kind=trace.SpanKind.SERVER,
            # Both would write its message, and one its stack trace, which may quote data.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield
            except BaseException as error:
                span.set_status(trace.StatusCode.ERROR)
                span.set_attribute("error.type", type(error).__name__)
                raise

    def sampled(self, metadata: Mapping[str, str]) -> bool:
        """Whether this call belongs to a sampled trace, or begins one."""
        parent = metadata.get("traceparent")
        if parent:
            return parent.endswith("1")
        return self._ratio > 0.0 and random.random() < self._ratio  # noqa: S311 - sampling, not a secret


def configure_tracing(service: str, exporter: SpanExporter | None) -> None:
    """Send the spans of this process to an exporter; without one, spans only carry ids onwards."""
    provider = TracerProvider(sampler=ALWAYS_ON, resource=Resource.create({"service.name": f"hedgerow-{service}"}))
    if exporter is not None:
        provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=2048))
    trace.set_tracer_provider(provider)


class FileSpanExporter(SpanExporter):
    """Appends spans as JSON lines to a file, and starts it afresh when it reaches its bound."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def export(self, spans: list[ReadableSpan]) -> SpanExportResult:  # type: ignore[override]
        """Append the spans."""
        full = self._path.exists() and self._path.stat().st_size > MAX_FILE_BYTES
        with self._path.open("w" if full else "a") as file:
            file.writelines(span.to_json(indent=None) + "\n" for span in spans)
        return SpanExportResult.SUCCESS
