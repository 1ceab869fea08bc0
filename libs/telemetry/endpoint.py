"""The endpoint that serves the metrics, over mutual TLS."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

REQUEST_SECONDS = 10.0


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
