"""Whether the ports of a suite are free, before anything starts."""

from __future__ import annotations

import socket
from collections.abc import Mapping

from suite.config import METRICS_OFFSET


def taken(ports: Mapping[str, int]) -> list[str]:
    """Return one line for each port that something else holds: which, for what, and how to choose another."""
    return [_words(use, port) for use, port in ports.items() if not _is_free(port)]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # Connections of a former run that linger do not count; a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _words(use: str, port: int) -> str:
    name, _, rest = use.replace("-", "_").partition(" ")
    above = f" ({METRICS_OFFSET} above its main port)" if rest == "metrics" else ""
    return (
        f"port {port} for {use}{above} is taken by another process. HEDGEROW_PORT_BASE=NUMBER moves all ports; "
        f"to move this one, set HEDGEROW_PORT_{name.upper()}=NUMBER, or {name} = NUMBER under [ports] in suite.toml"
    )
