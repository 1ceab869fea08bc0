"""Users for tests of the load generator itself: all kinds do one thing to an echo server, which the test names."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.identity import IdentityFolder
from loadtests.engine import Operation, Send, Sizes, UserKind
from loadtests.locust_kinds import KINDS
from tests.support.echo import DESCRIPTOR

TARGET, FOLDER, WHAT = "HEDGEROW_TEST_TARGET", "HEDGEROW_TEST_FOLDER", "HEDGEROW_TEST_WHAT"
# Each generator leaves a file there with the longest time, in seconds, in which each of its users finished no stream.
IDLE = "HEDGEROW_TEST_IDLE"
# Longer than any test may take: a run that waits for such a call never ends.
FOREVER_MS = 600_000
# A stream takes a second when nothing holds it up.
PAUSE_MS, STREAM_DEADLINE = 100, 8.0


@contextlib.asynccontextmanager
async def open_echo() -> AsyncIterator[Mapping[str, UserKind]]:
    """Yield users who do what ``HEDGEROW_TEST_WHAT`` says, a key of ``makers``."""
    channel = RotatingChannel(os.environ[TARGET], "ingestion.hedgerow.local", IdentityFolder(Path(os.environ[FOLDER])))
    client, idle = ServiceClient(channel, DESCRIPTOR), Idle()
    makers = {
        "short": _sleep(client, 100),
        "slow": _sleep(client, FOREVER_MS),
        "streams": _stream(client, PAUSE_MS, idle),
        "endless": _stream(client, FOREVER_MS, idle),
        "blocking": _blocking(client),
        "dying": _dying(client),
        "hanging": _hanging(),
    }
    send = makers[os.environ[WHAT]]
    deadline = STREAM_DEADLINE if os.environ[WHAT] == "streams" else FOREVER_MS / 1000
    try:
        yield {kind.name: UserKind([Operation(kind.name, "Call", lambda: send, deadline)], 0.0) for kind in KINDS}
    finally:
        if IDLE in os.environ:
            (Path(os.environ[IDLE]) / f"{os.getpid()}.json").write_text(json.dumps(idle.longest))
        await channel.close()


class Idle:
    """For how long each user, who is a task, finished nothing.

    Attributes:
        longest: seconds, by name of the task; the time until its end counts too.
    """

    def __init__(self) -> None:
        self.longest: dict[str, float] = {}
        self._since: dict[str, float] = {}

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Note that a user makes a call, and that it finished it or was taken away."""
        task = asyncio.current_task()
        assert task is not None
        user = task.get_name()
        self._since.setdefault(user, time.monotonic())
        try:
            yield
        finally:
            now = time.monotonic()
            self.longest[user] = max(self.longest.get(user, 0.0), now - self._since[user])
            self._since[user] = now


def _sleep(client: ServiceClient, milliseconds: int) -> Send:
    async def send(timeout: float) -> Sizes:
        await client.call("Sleep", BytesValue(value=b"%d" % milliseconds), timeout=timeout)
        return 1, 1

    return send


def _stream(client: ServiceClient, milliseconds: int, idle: Idle) -> Send:
    async def send(timeout: float) -> Sizes:
        count = 0
        with idle.call():
            async for _ in client.stream("Down", BytesValue(value=b"%d" % milliseconds), timeout=timeout):
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


def _dying(client: ServiceClient) -> Send:
    end = time.monotonic() + 1.0

    async def send(timeout: float) -> Sizes:
        if time.monotonic() > end:
            os._exit(1)
        await client.call("Sleep", BytesValue(value=b"100"), timeout=timeout)
        return 1, 1

    return send


def _hanging() -> Send:
    async def send(timeout: float) -> Sizes:
        # Neither the time limit nor the end of its input reaches a process that does this.
        time.sleep(FOREVER_MS / 1000)
        return 1, 1

    return send
