"""What no client shows: the very frames of an answer, and how a request ends that does not come to its end."""

from __future__ import annotations

import ast
import asyncio
import gzip
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from libs.rpc import Call
from tests.conformance.rpc.interop import InteropEcho, wire
from tests.support.authority import folder
from tests.support.h2_peer import (
    BOTH,
    DATA,
    END_STREAM,
    HEADERS,
    RST,
    SETTINGS,
    UP,
    WINDOW,
    Frame,
    H2Peer,
    client_context,
    ended,
    frame,
    message,
)
from tests.support.serving import Served

ROOT = Path(__file__).parents[3]
CANCEL = struct.pack(">I", 8)


class Collecting(InteropEcho):
    """Notes how each of its streams ended, as its handler sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.took = asyncio.Event()
        self.complete = 0
        self.pause: asyncio.Event | None = None

    async def up(self, requests: AsyncIterator[Any], call: Call) -> Any:
        """Take all, with a pause after the first if so told."""
        request = None
        async for request in requests:  # noqa: B007 - the last one is the answer
            self.took.set()
            if self.pause is not None:
                try:
                    await self.pause.wait()
                except asyncio.CancelledError:
                    self.cancelled += 1  # a handler that goes on regardless
        self.complete += 1
        return request

    async def both(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        """Take all, then answer."""
        yield await self.up(requests, call)


@pytest.fixture
def echo() -> Collecting:
    """The handlers of this module."""
    return Collecting()


async def with_peer(served: Served, tmp_path: Path, use: Callable[[H2Peer], Any]) -> Any:
    """Use a peer that ana holds, in a thread."""
    ana = folder(tmp_path / "ana", served.authority.user("ana"))

    def run() -> Any:
        with H2Peer(served.server.port, client_context(ana.folder)) as peer:
            peer.frames(lambda one: one.type == SETTINGS and bool(one.flags & 1))
            peer.send(frame(SETTINGS, 1, 0))
            return use(peer)

    return await asyncio.to_thread(run)


async def test_answers_are_not_compressed_unless_a_server_means_to(served: Served, tmp_path: Path) -> None:
    """Not even for a caller that takes gzip and sends it: on neither transport."""

    def use(peer: H2Peer) -> tuple[list[Frame], str]:
        body = gzip.compress(wire(b"a" * 10_000))
        extra = [("grpc-encoding", "gzip"), ("grpc-accept-encoding", "identity, deflate, gzip")]
        compressed = b"\1" + message(body)[1:]
        peer.send(peer.headers(1, extra) + frame(DATA, END_STREAM, 1, compressed))
        seen = peer.frames(ended(1), seconds=10)
        fields = dict(peer.decoder.decode(next(one.payload for one in seen if one.type == HEADERS)))
        return seen, str(fields.get("grpc-encoding", "identity"))

    seen, encoding = await with_peer(served, tmp_path, use)
    answer = b"".join(one.payload for one in seen if one.type == DATA)
    assert (answer, encoding) == (message(wire(b"a" * 10_000)), "identity")


CUT_OFF: dict[str, Callable[[H2Peer], None]] = {
    "reset": lambda peer: peer.send(frame(RST, 0, 1, CANCEL)) and None,
    "closed": lambda peer: peer.socket.close(),
    "half closed": lambda peer: peer.socket.shutdown(socket.SHUT_WR),
    "within a message": lambda peer: peer.send(frame(DATA, END_STREAM, 1, message(wire(b"abc"))[:-1])) and None,
    "within a prefix": lambda peer: peer.send(frame(DATA, END_STREAM, 1, b"\0\0")) and None,
    "wrong protocol": lambda peer: peer.send(frame(WINDOW, 0, 0, bytes(4))) and None,
}


async def cut_off(served: Served, tmp_path: Path, echo: Collecting, how: str, path: str) -> None:
    """Send one message, end the call in some way when the handler has it, and wait until the handler is through."""
    loop = asyncio.get_running_loop()

    def use(peer: H2Peer) -> None:
        peer.send(peer.headers(1, path=path, timeout="20S") + frame(DATA, 0, 1, message(wire(b"abc"))))
        asyncio.run_coroutine_threadsafe(echo.took.wait(), loop).result(10)
        CUT_OFF[how](peer)
        if how.startswith("within"):
            peer.frames(lambda one: one.stream == 1 and bool(one.flags & END_STREAM), seconds=10)

    await with_peer(served, tmp_path, use)
    async with asyncio.timeout(10):
        await served.chain.wait_idle()


@pytest.mark.parametrize("how", ["reset", "closed", "half closed", "wrong protocol"])
async def test_a_stream_cut_off_is_not_a_complete_one(
    served: Served, tmp_path: Path, echo: Collecting, how: str
) -> None:
    await cut_off(served, tmp_path, echo, how, UP)
    assert (echo.complete, served.events[-1].code) == (0, "CANCELLED")


@pytest.mark.parametrize("transport", ["lane"], indirect=True)
@pytest.mark.parametrize("path", [UP, BOTH])
@pytest.mark.parametrize("how", CUT_OFF)
async def test_the_lane_knows_any_end_from_a_complete_one(
    served: Served, tmp_path: Path, echo: Collecting, how: str, path: str
) -> None:
    """Also in two-way streams, and where the last message is cut: ``grpc.aio`` ends both like complete ones."""
    await cut_off(served, tmp_path, echo, how, path)
    assert echo.complete == 0
    if path == UP:
        assert served.events[-1].code == ("INVALID_ARGUMENT" if how.startswith("within") else "CANCELLED")


async def test_not_even_a_handler_that_ignores_its_cancellation_takes_it_for_complete(
    served: Served, tmp_path: Path, echo: Collecting, transport: str
) -> None:
    """All of it was sent, but what waited for the handler is gone with the call."""
    echo.pause = asyncio.Event()
    loop = asyncio.get_running_loop()

    def use(peer: H2Peer) -> None:
        parts = frame(DATA, 0, 1, message(wire(b"abc"))) * 3
        peer.send(peer.headers(1, path=UP, timeout="20S") + parts + frame(DATA, END_STREAM, 1, message(wire(b"d"))))
        asyncio.run_coroutine_threadsafe(echo.took.wait(), loop).result(10)
        peer.send(frame(RST, 0, 1, CANCEL))

    await with_peer(served, tmp_path, use)
    async with asyncio.timeout(10):
        while not echo.cancelled:
            await asyncio.sleep(0.01)
        echo.pause.set()
        await served.chain.wait_idle()
    assert echo.complete == 0


async def test_bad_binary_metadata_is_refused(served: Served, tmp_path: Path, echo: Collecting) -> None:
    def use(peer: H2Peer) -> str:
        peer.send(peer.call(1, extra=[("x-raw-bin", "*not base64*")]))
        seen = peer.frames(
            lambda one: one.stream == 1 and (one.type == RST or bool(one.flags & END_STREAM)), seconds=10
        )
        return peer.status(seen, 1)

    assert await with_peer(served, tmp_path, use) != "0"
    assert echo.binary == []


def test_the_seam_is_as_narrow_as_the_record_says() -> None:
    """The calls of the binding that ``session.py`` makes are as many as ADR 12 counts, and so are the events."""
    tree = ast.parse((ROOT / "libs" / "rpc" / "lane" / "session.py").read_text())
    calls = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and ast.unparse(node.value) in ("connection", "self._connection")
        and node.attr != "want_read"
    }
    events = {
        node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "events"
    } - {"Event"}
    record = (ROOT / "docs" / "adr" / "0012-fast-lane.md").read_text()
    counted = re.search(r"(\d+) calls and (\d+) events", record)
    assert counted is not None
    assert (len(calls), len(events)) == (int(counted[1]), int(counted[2]))
