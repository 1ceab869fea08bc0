"""The endpoint that serves the metrics, over mutual TLS."""

from __future__ import annotations

import contextlib
import http
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from libs.telemetry.logs import fault_location, get_logger

REQUEST_SECONDS = 10.0
MAX_CONNECTIONS = 16
log = get_logger()


class MetricsServer(ThreadingHTTPServer):
    """Serves ``/metrics``, each connection in a thread of its own, so that a silent one holds up nobody else.

    Whoever connects has a bounded time for all it does, and beyond a number of connections another one is closed at once.
    """

    daemon_threads = True

    def __init__(
        self,
        registry: CollectorRegistry,
        address: tuple[str, int],
        context: Callable[[], ssl.SSLContext],
        admits: Callable[[bytes], bool],
    ) -> None:
        """See ``serve_metrics``."""
        super().__init__(address, _Handler)
        self.registry = registry
        self.admits = admits
        self._context = context
        self._free = threading.BoundedSemaphore(MAX_CONNECTIONS)
        self._open: dict[socket.socket, float] = {}

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a connection its thread, while there is one."""
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Serve a connection to its end."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands and answer."""
        # Whoever has no certificate, or is gone, needs no line.
        with (
            contextlib.suppress(ssl.SSLError, ConnectionError, TimeoutError),
            self._context().wrap_socket(request, server_side=True, do_handshake_on_connect=False) as wrapped,
        ):
            wrapped.settimeout(REQUEST_SECONDS)
            self._open[wrapped] = time.monotonic()
            try:
                wrapped.do_handshake()
                _Handler(wrapped, client_address, self)
            finally:
                del self._open[wrapped]

    def service_actions(self) -> None:
        """End who takes too long over all; called twice a second."""
        late = time.monotonic() - REQUEST_SECONDS
        for wrapped, since in list(self._open.items()):
            if since < late:
                with contextlib.suppress(OSError):
                    # Of the plain socket, since its own thread is at work on the other layer.
                    socket.socket.shutdown(wrapped, socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a fault by its place, where the base prints the address of the peer and what the error says."""
        error = sys.exc_info()[1]
        if error is not None:
            log.error("metrics_request_failed", error=type(error).__name__, where=fault_location(error))


class _Handler(BaseHTTPRequestHandler):
    server: MetricsServer

    def do_GET(self) -> None:
        certificate = self.connection.getpeercert(binary_form=True)  # type: ignore[attr-defined]
        if certificate is None or not self.server.admits(ssl.DER_cert_to_PEM_cert(certificate).encode()):
            self.send_error(http.HTTPStatus.FORBIDDEN)
            return
        if self.path != "/metrics":
            self.send_error(http.HTTPStatus.NOT_FOUND)
            return
        body = generate_latest(self.server.registry)
        self.send_response(http.HTTPStatus.OK)
        self.send_header("Content-Type", CONTENT_TYPE_LATEST)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base names it
        """Scrapes are not worth a line each."""


def serve_metrics(
    registry: CollectorRegistry,
    host: str,
    port: int,
    context: Callable[[], ssl.SSLContext],
    admits: Callable[[bytes], bool],
) -> tuple[MetricsServer, threading.Thread]:
    """Serve ``/metrics`` over mutual TLS in a thread of its own; close with ``shutdown()``.

    Args:
        registry: what to expose.
        host: address to bind.
        port: port to bind; 0 picks one.
        context: returns what each handshake is to use; it requires client certificates.
        admits: whether the holder of a certificate (PEM) may scrape; called in any thread.
    """
    server = MetricsServer(registry, (host, port), context, admits)
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    return server, thread
