"""Users for tests of the load generator itself: all kinds do one thing to an echo server, which the test names."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.identity import IdentityFolder
from loadtests.engine import Operation, Send, Sizes, UserKind
from loadtests.locust_kinds import KINDS
from tests.support.echo import DESCRIPTOR

TARGET, FOLDER, WHAT = "HEDGEROW_TEST_TARGET", "HEDGEROW_TEST_FOLDER", "HEDGEROW_TEST_WHAT"
# Longer than any test may take: a run that waits for such a call never ends.
FOREVER_MS = 600_000
STREAM_DEADLINE = 20.0


@contextlib.asynccontextmanager
async def open_echo() -> AsyncIterator[Mapping[str, UserKind]]:
    """Yield users who send what ``HEDGEROW_TEST_WHAT`` says: ``short``, ``slow``, ``streams`` or ``blocking`` calls."""
    channel = RotatingChannel(os.environ[TARGET], "ingestion.hedgerow.local", IdentityFolder(Path(os.environ[FOLDER])))
    client = ServiceClient(channel, DESCRIPTOR)
    makers = {"short": _sleep(client, 100), "slow": _sleep(client, FOREVER_MS), "streams": _stream(client)}
    send = makers.get(os.environ[WHAT]) or _blocking(client)
    deadline = STREAM_DEADLINE if os.environ[WHAT] == "streams" else FOREVER_MS / 1000
    try:
        yield {kind.name: UserKind([Operation(kind.name, "Call", lambda: send, deadline)], 0.0) for kind in KINDS}
    finally:
        await channel.close()


def _sleep(client: ServiceClient, milliseconds: int) -> Send:
    async def send(timeout: float) -> Sizes:
        await client.call("Sleep", BytesValue(value=b"%d" % milliseconds), timeout=timeout)
        return 1, 1

    return send


def _stream(client: ServiceClient) -> Send:
    async def send(timeout: float) -> Sizes:
        count = 0
        async for _ in client.stream("Down", BytesValue(value=b"5"), timeout=timeout):
            count += 1
        return 1, count

    return send


def _blocking(client: ServiceClient) -> Send:
    async def send(timeout: float) -> Sizes:
        # A message of many elements, built on the event loop.
        time.sleep(0.6)
        await client.call("Echo", BytesValue(value=b"x" * 1_000_000), timeout=timeout)
        return 1_000_000, 1_000_000

    return send
