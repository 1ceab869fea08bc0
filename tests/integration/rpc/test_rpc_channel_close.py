"""A closed channel leaves nothing behind: no call, no connection, whatever it was doing."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from tests.support.authority import Authority, folder
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import serving

NAME = "ingestion.hedgerow.local"
SECONDS = 60


class Held(Echo):
    """Answers ``Down`` once and then holds the call until its caller ends it."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = asyncio.Event()

    async def down(self, request: Any, call: Any) -> AsyncIterator[Any]:
        try:
            yield request
            await asyncio.Event().wait()
        finally:
            self.ended.set()


def connections(port: int) -> int:
    """Return how many connections to a port of this machine are established."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[2].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


async def test_calls_on_a_former_connection_end_with_the_channel(tmp_path: Path) -> None:
    authority, held = Authority(), Held()
    async with serving(tmp_path, [echo_service(held)], authority=authority) as served, asyncio.timeout(SECONDS):
        kept = folder(tmp_path / "ana", authority.user("ana"))
        channel = RotatingChannel(served.target, NAME, kept)
        answers = ServiceClient(channel, DESCRIPTOR).stream("Down", BytesValue(value=b"1"), timeout=600)
        await anext(answers)
        kept.save(authority.user("ana"))
        await channel.rotate_now()
        assert channel.rotations == 1
        await channel.close()
        await held.ended.wait()
        with pytest.raises(asyncio.CancelledError):
            await anext(answers)
        while connections(served.port):
            await asyncio.sleep(0.05)


async def test_a_connection_that_is_being_made_ends_with_the_channel(tmp_path: Path) -> None:
    authority, loop = Authority(), asyncio.get_running_loop()
    kept = folder(tmp_path / "ana", authority.user("ana"))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        channel = RotatingChannel(f"127.0.0.1:{silent.getsockname()[1]}", NAME, kept)
        kept.save(authority.user("ana"))
        rotating = asyncio.create_task(channel.rotate_now())
        async with asyncio.timeout(SECONDS):
            connection, _ = await loop.sock_accept(silent)
            with connection:
                await channel.close()
                with pytest.raises(asyncio.CancelledError):
                    await rotating
                while await loop.sock_recv(connection, 65_536):
                    pass
    assert channel.rotations == 0
