"""What a peer may make the lane do before it is let in."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from pathlib import Path

import pytest

from libs.rpc.lane import LanePort, Limits
from libs.rpc.lane.secure import Certificates
from libs.rpc.rate_limit import RateLimiter
from tests.integration.rpc_lane.conftest import Lane
from tests.support.authority import folder
from tests.support.echo import Echo, echo_service
from tests.support.h2_peer import DATA, END_STREAM, H2Peer, client_context, ended, frame, message
from tests.support.serving import serving

INVALID, EXHAUSTED = "3", "8"
HELLOS = 8
GARBAGE = b"\1" + message(b"not gzip")[1:]


async def test_a_message_is_not_inflated_for_a_caller_who_is_refused(tmp_path: Path) -> None:
    def use(peer: H2Peer) -> list[str]:
        statuses = []
        for stream in (1, 3):
            peer.send(peer.headers(stream, [("grpc-encoding", "gzip")]) + frame(DATA, END_STREAM, stream, GARBAGE))
            statuses.append(peer.status(peer.frames(ended(stream)), stream))
        return statuses

    limiter = RateLimiter(0.001, 1)
    async with serving(tmp_path, [echo_service(Echo())], transport="lane", limiter=limiter) as served:
        ana = folder(tmp_path / "ana", served.authority.user("ana"))
        # The first is let in, and its message found to be none; of the second nobody looks at the message.
        assert await Lane(served, client_context(ana.folder)).run(use) == [INVALID, EXHAUSTED]


@pytest.mark.parametrize("limits", [Limits(handshakes=2)])
async def test_a_handshake_whose_peer_was_sent_away_is_not_begun(lane: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    [(_, port)] = lane.served.server._ports
    assert isinstance(port, LanePort)
    begun, busy, free = 0, threading.Event(), threading.Event()
    context = Certificates.context
    peers: list[socket.socket] = []

    def counted(self: Certificates) -> ssl.SSLContext:
        nonlocal begun
        begun += 1
        return context(self)

    def occupy() -> None:
        busy.set()
        free.wait(30)

    monkeypatch.setattr(Certificates, "context", counted)
    occupied = port._pool.submit(occupy)
    try:
        await asyncio.to_thread(busy.wait, 30)
        for number in range(HELLOS):
            hello = asyncio.to_thread(_say_hello, lane.served.server.port, lane.context)
            peers.append(await hello)
            async with asyncio.timeout(30):
                while port._pool._work_queue.qsize() <= number:
                    await asyncio.sleep(0.01)
    finally:
        free.set()
        for peer in peers:
            peer.close()
    await asyncio.wrap_future(occupied)
    assert await asyncio.wrap_future(port._pool.submit(lambda: begun)) == 2


def _say_hello(port: int, context: ssl.SSLContext) -> socket.socket:
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing := ssl.MemoryBIO(), server_hostname="ingestion.hedgerow.local")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    peer = socket.create_connection(("127.0.0.1", port), timeout=10)
    peer.sendall(outgoing.read())
    return peer
