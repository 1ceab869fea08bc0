"""A server on the lane: in this process with limits of the test's own, or in a process whose memory can be watched."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from libs.rpc.lane import Limits
from tests.support.authority import folder
from tests.support.echo import Echo, echo_service
from tests.support.h2_peer import H2Peer, client_context, ended
from tests.support.serving import Served, serving

REPOSITORY = Path(__file__).parents[3]


@dataclass
class Lane:
    """A served lane and how to reach it."""

    served: Served
    context: ssl.SSLContext

    def peer(self, settings: bytes = b"", **options: Any) -> H2Peer:
        """Return a peer that ana holds."""
        return H2Peer(self.served.server.port, self.context, settings, **options)

    async def run(self, use: Callable[[H2Peer], Any], settings: bytes = b"", **options: Any) -> Any:
        """Use a peer in a thread."""

        def whole() -> Any:
            with self.peer(settings, **options) as peer:
                return use(peer)

        return await asyncio.to_thread(whole)


@pytest.fixture
def limits() -> Limits:
    """What the server of ``lane`` gives; a module or test may say otherwise."""
    return Limits()


@pytest.fixture
async def lane(tmp_path: Path, limits: Limits, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Lane]:
    """The echo service on the lane."""
    monkeypatch.setattr("libs.rpc.lane.port.LIMITS", limits)
    async with serving(tmp_path, [echo_service(Echo())], transport="lane") as served:
        ana = folder(tmp_path / "ana", served.authority.user("ana"))
        yield Lane(served, client_context(ana.folder))


@dataclass
class LaneProcess:
    """A server in a process of its own."""

    port: int
    pid: int
    context: ssl.SSLContext

    def peer(self, settings: bytes = b"") -> H2Peer:
        """Return a peer that ana holds."""
        return H2Peer(self.port, self.context, settings)

    def memory(self) -> int:
        """Return resident MiB."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * 4096 // 1024 // 1024

    @contextlib.contextmanager
    def watched(self, growth: int = 24) -> Iterator[None]:
        """Expect that a caller who was there before is served all the while, and that memory stays within a growth.

        Args:
            growth: MiB; the allocator keeps some for the next time.
        """
        bystander = _Bystander(self)
        bystander.start()
        bystander.first.wait(30)
        before = bystander.peak = self.memory()
        try:
            yield
        finally:
            bystander.over.set()
            bystander.join(60)
        assert (bystander.failures, bystander.calls > 1) == ([], True)
        assert bystander.peak - before < growth


class _Bystander(threading.Thread):
    """Another caller on a connection of its own; also looks at the memory."""

    def __init__(self, process: LaneProcess) -> None:
        super().__init__(name="bystander")
        self.process = process
        self.first, self.over = threading.Event(), threading.Event()
        self.calls = self.peak = 0
        self.failures: list[str] = []

    def run(self) -> None:
        """Call until told to stop, and once more after that."""
        with self.process.peer() as peer:
            is_last = False
            while not is_last and not self.failures:
                is_last = self.over.wait(0.005)
                stream = 1 + 2 * self.calls
                peer.send(peer.call(stream, b"\x0a\x03abc", timeout="20S"))
                status = peer.status(peer.frames(ended(stream), seconds=20), stream)
                if status != "0":
                    self.failures.append(status)
                self.calls += 1
                self.peak = max(self.peak, self.process.memory())
                self.first.set()


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[LaneProcess]:
    """The echo service behind the whole chain in a process of its own, which must log no error."""
    errors = tmp_path / "errors"
    with errors.open("wb") as stderr:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.rpc.server", "lane", "chain", str(tmp_path / "ana"),
            cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE, stderr=stderr,
        )  # fmt: skip
    try:
        assert child.stdout is not None
        async with asyncio.timeout(60):
            port, pid = (await child.stdout.readline()).split()
        yield LaneProcess(int(port), int(pid), client_context(tmp_path / "ana"))
        assert child.returncode is None
        assert errors.read_text() == ""
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        child._transport.close()  # type: ignore[attr-defined]
