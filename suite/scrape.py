"""Reads a service's metrics as Prometheus does, over mutual TLS."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_SECONDS = 10.0


def scrape(identity: Path, port: int, host: str = "127.0.0.1") -> dict[str, Metric]:
    """Return the metric families of a port by name.

    Args:
        identity: folder with ``identity.pem`` and ``roots.pem`` of whoever asks.
        port: number of the metrics port.
        host: its address, which its certificate names.

    Raises:
        OSError: it does not answer, or the two do not accept each other.
    """
    context = ssl.create_default_context(cafile=str(identity / "roots.pem"))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(identity / "identity.pem")
    connection = http.client.HTTPSConnection(host, port, timeout=TIMEOUT_SECONDS, context=context)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise OSError(f"{host}:{port} answered {answer.status}")
        text = answer.read().decode()
    finally:
        connection.close()
    return {family.name: family for family in text_string_to_metric_families(text)}
