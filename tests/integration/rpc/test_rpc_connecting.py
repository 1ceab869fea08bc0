"""A connection that takes long to be made is made, and one that was lost is back soon after the server is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from tests.support.authority import Authority, folder
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import serving

SLOW_SECONDS = 1.2
PATIENCE = 30.0


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay: float) -> None:
    with contextlib.suppress(OSError), contextlib.closing(writer):
        data = await reader.read(65_536)
        await asyncio.sleep(delay)
        while data:
            writer.write(data)
            await writer.drain()
            data = await reader.read(65_536)


@contextlib.asynccontextmanager
async def slow_front(port: int) -> AsyncIterator[str]:
    """Yield the address of a way to a port that holds the first bytes of each connection back for a while."""
    ways: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", port)
        for copying in (_copy(reader, back, SLOW_SECONDS), _copy(onward, writer, 0)):
            ways.add(asyncio.create_task(copying))

    front = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{front.sockets[0].getsockname()[1]}"
    finally:
        front.close()
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def test_a_handshake_of_more_than_a_second_succeeds(tmp_path: Path) -> None:
    """A busy machine takes its time; the call waits for the connection instead of failing."""
    authority = Authority()
    async with (
        serving(tmp_path, [echo_service(Echo())], authority=authority) as served,
        slow_front(served.server.port) as address,
    ):
        channel = RotatingChannel(address, "ingestion.hedgerow.local", folder(tmp_path / "ana", authority.user("ana")))
        served.channels.append(channel)
        answer = await ServiceClient(channel, DESCRIPTOR).call("Echo", BytesValue(value=b"1"), timeout=PATIENCE)
        assert answer.value == b"1"
