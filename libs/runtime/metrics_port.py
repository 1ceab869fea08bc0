"""The port that Prometheus scrapes, with the service's own identity for as long as the process lives."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from http.server import HTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry

from hedgerow.errors import UnauthenticatedError, UnavailableError
from hedgerow.identity import Identity
from libs.identity.trust import TrustStore
from libs.telemetry import serve_metrics

RETRY_SECONDS = 1.0


class MetricsPort:
    """Serves a registry over mutual TLS 1.3.

    Attributes:
        port: its number, once open.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        listen: str,
        identity: Callable[[], Identity],
        folder: Path,
        trust: TrustStore,
        readers: frozenset[str],
    ) -> None:
        """Open nothing yet.

        Args:
            registry: what is scraped.
            listen: ``host:port``; port 0 picks a free one.
            identity: returns the newest identity.
            folder: where that identity is kept.
            trust: judges who scrapes.
            readers: SPIFFE IDs of those who may, beside the holder of that identity.
        """
        self._registry = registry
        self._listen = listen
        self._identity = identity
        self._folder = folder
        self._trust = trust
        self._readers = readers
        self._server: HTTPServer | None = None
        self.port = 0

    def open(self) -> None:
        """Listen from now on.

        Raises:
            UnavailableError: the port cannot be bound.
        """
        self._context = self._new_context()
        self._served = self._identity()
        host, _, port = self._listen.rpartition(":")
        try:
            self._server, _ = serve_metrics(self._registry, host, int(port), lambda: self._context, self._admits)
        except OSError as error:
            raise UnavailableError(f"{self._listen} cannot be bound; is the port taken?") from error
        self.port = self._server.server_port

    async def close(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()

    async def rotate(self) -> None:
        """Follow the identity for ever."""
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if (identity := self._identity()) is not self._served:
                self._served = identity
                # A new one, because a context cannot be told to distrust a root.
                self._context = self._new_context()

    def _admits(self, certificate_pem: bytes) -> bool:
        try:
            reader = self._trust.judge(certificate_pem).spiffe_id
        except UnauthenticatedError:
            return False
        return reader in self._readers or reader == self._served.spiffe_id

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=self._identity().roots_pem.decode())
        context.load_cert_chain(self._folder / "identity.pem")
        return context
