"""OpenTelemetry traces across hops.

A call that is not sampled costs nothing but a look at one header: the span machinery is entered only when the caller's
``traceparent`` says sampled, or when this process is the head of the trace and its dice say so.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Mapping
from pathlib import Path

from opentelemetry import context, trace
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

MAX_FILE_BYTES = 16 * 1024 * 1024
# The lowest bit of the flags, the last two digits of a traceparent; other bits have other meanings.
SAMPLED = "13579bdf"


class Tracer:
    """Opens a server span for a sampled call."""

    def __init__(self, service: str, ratio: float) -> None:
        self._tracer = trace.get_tracer(f"hedgerow.{service}")
        self._ratio = ratio

    @contextlib.contextmanager
    def span(self, name: str, metadata: Mapping[str, str], *, whole_task: bool = False) -> Iterator[None]:
        """Open a span named for the method, child of the caller's; of an exception it keeps the type alone.

        Args:
            name: the method.
            metadata: of the call.
            whole_task: whether it stays the current one until the task ends. An answer that streams needs this, because
                what is left of its generator may be closed in another context.
        """
        span = self._tracer.start_span(name, context=extract(metadata), kind=trace.SpanKind.SERVER)
        token = context.attach(trace.set_span_in_context(span))
        try:
            yield
        except BaseException as error:
            # Its message and its stack trace may quote data.
            span.set_status(trace.StatusCode.ERROR)
            span.set_attribute("error.type", type(error).__name__)
            raise
        finally:
            span.end()
            if not whole_task:
                context.detach(token)

    def stream_span(self, name: str, metadata: Mapping[str, str]) -> contextlib.AbstractContextManager[None]:
        """Open a span for a call that streams, if it is sampled."""
        return self.span(name, metadata, whole_task=True) if self.sampled(metadata) else contextlib.nullcontext()

    def sampled(self, metadata: Mapping[str, str]) -> bool:
        """Whether this call belongs to a sampled trace, or begins one."""
        parent = metadata.get("traceparent")
        if parent:
            return parent[-1] in SAMPLED
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
        if self._path.exists() and self._path.stat().st_size > MAX_FILE_BYTES:
            os.truncate(self._path, 0)
        # In one write at the end, because the workers of a service share the file.
        with self._path.open("ab", buffering=0) as file:
            file.write("".join(span.to_json(indent=None) + "\n" for span in spans).encode())
        return SpanExportResult.SUCCESS
