"""The metrics endpoint on a real port: who may read it, and what those get who may not or are slow."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry

from hedgerow.identity import Identity
from libs.identity.trust import TrustStore
from libs.runtime.metrics_port import MetricsPort
from libs.telemetry.endpoint import MAX_CONNECTIONS
from suite.scrape import scrape
from tests.support.authority import DOMAIN, Authority, folder, service_id, user_id

PATIENCE_SECONDS = 60.0
READERS = frozenset({service_id("prometheus"), user_id("operator")})


class Port:
    """An open port, with what it trusts."""

    def __init__(self, tmp: Path) -> None:
        self.authority, self.trust, self._tmp = Authority(), TrustStore(DOMAIN), tmp
        self.own = self.authority.service("features")
        kept = folder(tmp / "server", self.own)
        self.served = MetricsPort(
            CollectorRegistry(), "127.0.0.1:0", lambda: self.own, kept.folder, self.trust, READERS
        )
        self.served.open()

    def reads(self, identity: Identity) -> bool:
        """Whether the holder of an identity gets the metrics; else it is told that it may not."""
        path = folder(self._tmp / f"{identity.certificate.serial_number:x}", identity).folder
        try:
            scrape(path, self.served.port)
        except OSError as error:
            if str(error).endswith("answered 403"):
                return False
            raise
        return True

    def connect(self) -> socket.socket:
        """Return a connection on which nothing was said yet."""
        return socket.create_connection(("127.0.0.1", self.served.port), PATIENCE_SECONDS)


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    opened = Port(tmp_path)
    yield opened
    asyncio.run(opened.served.close())


def test_who_may_read(port: Port) -> None:
    issued = {
        "service": [port.authority.service(name) for name in ("prometheus", "features", "inference")],
        "user": [port.authority.user(name) for name in ("operator", "ana")],
    }
    assert [port.reads(identity) for identity in issued["service"]] == [True, True, False]
    assert [port.reads(identity) for identity in issued["user"]] == [True, False]
    foreign = port.authority.issue("spiffe://elsewhere.local/service/prometheus")
    assert not port.reads(foreign)


def test_a_revoked_certificate_reads_nothing(port: Port) -> None:
    stolen, renewed = (port.authority.service("prometheus") for _ in range(2))
    assert port.reads(stolen)
    port.trust.update(1, frozenset({f"{stolen.certificate.serial_number:x}"}))
    assert not port.reads(stolen)
    assert port.reads(renewed)


def test_beyond_a_number_of_connections_another_is_closed_at_once(port: Port) -> None:
    with contextlib.ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):
            held.enter_context(port.connect())
        with port.connect() as surplus:
            assert surplus.recv(1) == b""
    # The server learns of their end by itself, and then has room again.
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        with contextlib.suppress(OSError):
            assert port.reads(port.own)
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_who_never_comes_to_the_point_is_cut_off(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    trusting = ssl.create_default_context(cadata=port.own.roots_pem.decode())
    trusting.load_cert_chain(port.served._folder / "identity.pem")
    deadline = time.monotonic() + PATIENCE_SECONDS
    with port.connect() as raw, trusting.wrap_socket(raw, server_hostname="127.0.0.1") as client:
        monkeypatch.setattr("libs.telemetry.endpoint.REQUEST_SECONDS", 1.0)
        client.sendall(b"GET /metrics?")
        with pytest.raises(OSError):
            while time.monotonic() < deadline:
                client.sendall(b"x")
                time.sleep(0.02)  # each byte well within the time of one


def test_a_fault_is_told_without_the_peer_and_what_it_says(
    port: Port, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(certificate_pem: bytes) -> None:
        raise ValueError("a personal detail")

    monkeypatch.setattr(port.trust, "judge", fail)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with structlog.testing.capture_logs() as lines:
        with pytest.raises(OSError):
            scrape(folder(port.served._folder.parent / "reader", port.own).folder, port.served.port)
        while not lines and time.monotonic() < deadline:
            time.sleep(0.01)
    assert [(line["event"], line["error"]) for line in lines] == [("metrics_request_failed", "ValueError")]
    assert lines[0]["where"].startswith("tests/integration/telemetry/test_telemetry_endpoint.py:")
    assert "personal" not in str(lines) + capsys.readouterr().err
