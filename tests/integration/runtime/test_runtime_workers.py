"""What the parent of several workers holds for them, and what adds up over them."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import psutil
import pytest
from prometheus_client import CollectorRegistry

from hedgerow.errors import FailedPreconditionError, UnavailableError
from libs.audit import AuditWriter, WriterStatus
from libs.config import ServiceConfig
from libs.runtime import worker_scrape, workers
from libs.runtime.vital_signs import Watches, show_audit, show_children
from libs.runtime.worker_link import WorkerLink
from libs.runtime.worker_scrape import WorkersScrape
from libs.runtime.workers import Parent, _held_port, _only_parent
from libs.telemetry import Instruments

PATIENCE_SECONDS = 60.0
WORKER = """
import os, signal, socket
socket.socket(fileno=int(os.environ["HEDGEROW_WORKER_CHANNEL"])).send(b"\\n")
signal.pause()
"""


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


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("module", "call"), [(socket, "socketpair"), (os, "pidfd_open")])
async def test_the_others_go_on_when_a_worker_cannot_be_started_again(
    module: ModuleType, call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parent without descriptors to spare ends no healthy worker, and leaves nothing of the one it did not get."""
    monkeypatch.setattr(sys, "orig_argv", [sys.executable, "-c", WORKER])
    monkeypatch.setattr(workers, "FIRST_PAUSE_SECONDS", 0.01)
    sound, faults = getattr(module, call), []

    def exhausted(*arguments: Any) -> Any:
        if len(faults) < 3:
            faults.append(call)
            raise OSError(errno.EMFILE, "too many open files")
        return sound(*arguments)

    this = psutil.Process()
    before = {child.pid for child in this.children()}

    def alive() -> set[int]:
        return {child.pid for child in this.children()} - before

    config = ServiceConfig(service="inference", listen="", data_dir=tmp_path, trust_dir=tmp_path, workers=2)
    parent = Parent(config)
    opened = this.num_fds()
    async with asyncio.TaskGroup() as kept:
        kept.create_task(parent._keep(0))
        await until(parent._begun.is_set)
        (healthy,) = alive()
        kept.create_task(parent._keep(1))
        await until(lambda: len(parent._scrape._names) == 2)
        (victim,) = alive() - {healthy}
        monkeypatch.setattr(module, call, exhausted)
        psutil.Process(victim).kill()
        await until(lambda: len(faults) == 3 and victim not in alive() and len(parent._scrape._names) == 2)
        assert len(alive()) == 2
        assert healthy in alive()
        parent._end()
    assert not alive()
    assert parent._code == 0
    assert this.num_fds() == opened


def test_a_late_answer_counts_at_the_next_scrape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that is always late is shown one scrape behind, and not as it was when it last was in time."""
    monkeypatch.setattr(worker_scrape, "ANSWER_SECONDS", 0.0)
    here, there = socket.socketpair()
    registry, counts = CollectorRegistry(), [["rows", "counter", "Rows.", [["rows_total", {}, 3.0]]]]
    scrape = WorkersScrape(tmp_path, 1)
    registry.register(scrape)
    link = WorkerLink(here)
    scrape.add(link)
    with there:
        assert registry.get_sample_value("rows_total") is None
        assert there.recv(16) == b"\n"
        there.sendall(json.dumps(["0", [], counts]).encode() + b"\n")
        assert registry.get_sample_value("rows_total") == 3.0
        assert there.recv(16) == b"\n"
    link.close()


def test_what_only_the_parent_does_is_scraped(tmp_path: Path) -> None:
    """Else nobody would hear that it no longer follows what it keeps for its workers."""
    registry, scrape, instruments = CollectorRegistry(), WorkersScrape(tmp_path, 2), Instruments(CollectorRegistry())
    registry.register(scrape)
    watches = Watches(instruments)
    show_children(instruments)
    scrape.show_parent(instruments)
    watches.broken("WatchTrust")
    age = registry.get_sample_value("hedgerow_watch_age_seconds", {"watch": "WatchTrust", "worker": "parent"})
    assert age is not None
    # Workers that have ended count what they used themselves.
    assert registry.get_sample_value("hedgerow_children_cpu_seconds_total") is None
    assert registry.get_sample_value("hedgerow_workers_configured") == 2
    assert registry.get_sample_value("hedgerow_workers_serving") == 0
