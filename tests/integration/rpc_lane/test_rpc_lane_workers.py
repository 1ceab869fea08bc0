"""Several processes share one port of the lane: each serves, and the death of one is none of the other's business."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.identity import IdentityFolder
from libs.rpc.chain import Chain
from libs.rpc.lane import LanePort
from libs.rpc.service import Method
from tests.support.authority import Authority, folder
from tests.support.echo import Echo, echo_service
from tests.support.h2_peer import DATA, H2Peer, client_context, ended

CONNECTIONS = 256


class TellsItsProcess:
    """Answers each call with the number of its process."""

    async def unary(self, method: Method, raw: bytes, transport: Any) -> bytes:
        """Return it."""
        return BytesValue(value=b"%d" % os.getpid()).SerializeToString()

    async def wait_idle(self) -> None:
        """Return at once."""


def serve(identity: Path, port: int, ready: Connection) -> None:
    """Serve until killed; runs in a process of its own."""

    async def run() -> None:
        lane = LanePort(
            cast(Chain, TellsItsProcess()), [echo_service(Echo())], IdentityFolder(identity), f"127.0.0.1:{port}",
            shared=True,
        )  # fmt: skip
        ready.send(await lane.start())
        await asyncio.Event().wait()

    asyncio.run(run())


class Workers:
    """Two of them, and how to reach them."""

    def __init__(self, tmp: Path) -> None:
        authority = Authority()
        folder(tmp / "server", authority.service("ingestion"))
        folder(tmp / "ana", authority.user("ana"))
        self.context = client_context(tmp / "ana")
        self._reserved = socket.socket()  # bound and not listening: it keeps the number free for the workers
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.bind(("127.0.0.1", 0))
        self.port = self._reserved.getsockname()[1]
        spawn = multiprocessing.get_context("spawn")
        self.processes = []
        for _ in range(2):
            here, there = spawn.Pipe(duplex=False)
            process = spawn.Process(target=serve, args=(tmp / "server", self.port, there), daemon=True)
            process.start()
            self.processes.append(process)
            assert here.poll(60)
            assert here.recv() == self.port

    def stop(self) -> None:
        """Kill what still runs."""
        for process in self.processes:
            process.kill()
            process.join(30)
            process.close()
        self._reserved.close()

    def peer(self) -> H2Peer:
        """Return a new connection."""
        return H2Peer(self.port, self.context)


def ask(peer: H2Peer, stream: int) -> int:
    """Call, and return the process that answered."""
    peer.send(peer.call(stream, b"", timeout="20S"))
    frames = peer.frames(ended(stream), seconds=20)
    assert peer.status(frames, stream) == "0"
    body = b"".join(frame.payload for frame in frames if frame.type == DATA and frame.stream == stream)
    return int(BytesValue.FromString(body[5:]).value)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    """Two workers on one port."""
    running = Workers(tmp_path)
    try:
        yield running
    finally:
        running.stop()


def test_both_serve_and_one_outlives_the_other(workers: Workers) -> None:
    kept: dict[int, H2Peer] = {}
    for _ in range(CONNECTIONS):
        peer = workers.peer()
        if (pid := ask(peer, 1)) in kept:
            peer.__exit__()
        kept[pid] = kept.get(pid, peer)
        if len(kept) == 2:
            break
    assert set(kept) == {process.pid for process in workers.processes}

    dead, alive = workers.processes
    assert dead.pid is not None
    os.kill(dead.pid, signal.SIGKILL)
    dead.join(30)
    assert dead.exitcode == -signal.SIGKILL
    assert ask(kept[cast(int, alive.pid)], 3) == alive.pid
    for _ in range(16):
        with workers.peer() as peer:
            assert ask(peer, 1) == alive.pid
    for peer in kept.values():
        peer.__exit__()
