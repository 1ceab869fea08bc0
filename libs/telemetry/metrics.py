"""Prometheus metrics of calls, and the endpoint that serves them over mutual TLS.

Labels are method paths and gRPC codes: both are bounded, because unknown methods share the label ``unknown``.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
REQUEST_SECONDS = 10.0


class CallMetrics:
    """Rate, errors and duration of calls, and how many are in flight."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._handled = Counter(
            "hedgerow_rpc_handled_total", "Calls that ended, by method and code.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "hedgerow_rpc_seconds", "Duration of calls in seconds.", ["method"], buckets=BUCKETS, registry=registry
        )
        self._in_flight: list[Callable[[], int]] = []
        gauge = Gauge("hedgerow_rpc_in_flight", "Calls in progress.", registry=registry)
        gauge.set_function(lambda: sum(count() for count in self._in_flight))
        self._children: dict[tuple[str, str], Callable[[float], None]] = {}

    def add_in_flight(self, count: Callable[[], int]) -> None:
        """Add a port's calls in progress to the gauge."""
        self._in_flight.append(count)

    def ended(self, method: str, code: str, seconds: float) -> None:
        """Count a call that ended."""
        child = self._children.get((method, code))
        if child is None:
            # The children are looked up once: a labels() call costs more than the rest of this method.
            count, observe = self._handled.labels(method, code).inc, self._seconds.labels(method).observe

            def child(value: float) -> None:
                count()
                observe(value)

            self._children[method, code] = child
        child(seconds)


def serve_metrics(
    registry: CollectorRegistry, host: str, port: int, context: Callable[[], ssl.SSLContext]
) -> tuple[ThreadingHTTPServer, threading.Thread]:
    """Serve ``/metrics`` over mutual TLS in a thread of its own; close with ``shutdown()``.

    Args:
        registry: what to expose.
        host: address to bind.
        port: port to bind; 0 picks one.
        context: returns what each handshake is to use; it requires client certificates.
    """

    class Handler(BaseHTTPRequestHandler):
        timeout = REQUEST_SECONDS

        def do_GET(self) -> None:
            if self.path != "/metrics":
                self.send_error(404)
                return
            body = generate_latest(registry)
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE_LATEST)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base names it
            """Scrapes are not worth a line each."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: object, client_address: object) -> None:
            # The handshake runs in the request's own thread, so that a silent client holds up nobody else.
            request.settimeout(REQUEST_SECONDS)  # type: ignore[attr-defined]
            try:
                with context().wrap_socket(request, server_side=True) as wrapped:  # type: ignore[arg-type]
                    Handler(wrapped, client_address, self)
            except (OSError, ssl.SSLError):
                return

    server = Server((host, port), Handler)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return server, thread
