"""Structured logs, Prometheus metrics and OpenTelemetry traces, none of which ever hold personal data or secrets."""

from libs.telemetry.endpoint import serve_metrics
from libs.telemetry.instruments import Instruments
from libs.telemetry.logs import configure_logging, fault_location, get_logger
from libs.telemetry.metrics import CallMetrics
from libs.telemetry.traces import Tracer, configure_tracing

__all__ = [
    "CallMetrics",
    "Instruments",
    "Tracer",
    "configure_logging",
    "configure_tracing",
    "fault_location",
    "get_logger",
    "serve_metrics",
]
