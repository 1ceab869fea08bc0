"""What the parent of several workers holds for them, and what adds up over them."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from hedgerow.errors import FailedPreconditionError, UnavailableError
from libs.audit import AuditWriter, WriterStatus
from libs.config import ServiceConfig
from libs.runtime.vital_signs import show_audit
from libs.runtime.workers import _held_port, _only_parent
from libs.telemetry import Instruments


def test_one_parent_and_no_counts_of_an_earlier_one(tmp_path: Path) -> None:
    config = ServiceConfig(service="inference", listen="", data_dir=tmp_path / "inference", trust_dir=tmp_path)
    counted = config.data_dir / "workers" / "0.keys"
    counted.parent.mkdir(parents=True)
    counted.touch()
    for _ in range(2):
        with _only_parent(config):
            assert not counted.exists()
            with pytest.raises(FailedPreconditionError), _only_parent(config):
                pass


def test_a_held_port_is_for_those_who_share_it(tmp_path: Path) -> None:
    with _held_port("127.0.0.1:0") as listen, socket.socket() as worker:
        host, _, port = listen.rpartition(":")
        assert host == "127.0.0.1"
        with pytest.raises(OSError, match="in use"):
            socket.create_server((host, int(port)))
        worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        worker.bind((host, int(port)))
        worker.listen()
        socket.create_connection((host, int(port)), timeout=10).close()
        # Even another one that would share it: its callers would get answers of two services.
        with pytest.raises(UnavailableError), _held_port(listen):
            pass


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0"])
def test_a_port_is_held_for_either_version_of_ip(listen: str) -> None:
    with _held_port(listen) as held:
        assert held.startswith(listen[:-1])
        assert not held.endswith(":0")


def test_audit_events_are_counted_from_the_start_of_the_process() -> None:
    """The next process of a chain would else count again what the one before it has counted."""
    sequences = [400, 400, 403]

    class Writer:
        def status(self) -> WriterStatus:
            return WriterStatus(waiting=0, refusing=(), sequence=sequences.pop(0), unshipped=0)

    instruments = Instruments(CollectorRegistry())
    show_audit(instruments, cast(AuditWriter, Writer()))
    counter = next(metric for metric in instruments._metrics if metric.name == "hedgerow_audit_events")
    assert [counter.family([]).samples[0].value for _ in range(2)] == [0.0, 3.0]
