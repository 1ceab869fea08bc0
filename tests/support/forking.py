"""``python -m tests.support.forking FOLDER TRANSPORT``: with a server and a channel it starts children, and forks at last.

It says on standard error, where its log goes too, how far it has come. It must be a process of its own: the guard of forks
is for life.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import uvloop
from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow.client import ServiceClient
from libs.runtime.fork_guard import guard_forks
from libs.telemetry import configure_logging
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import serving

LOADED, FORKED = "children were started\n", "the parent still calls\n"


class Numbers:
    """A few numbers, each with the process that read it."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[int, int]:
        return index, os.getpid()


async def main(tmp: Path, transport: str) -> None:
    """Serve, and call before and after each kind of child."""
    async with serving(tmp, [echo_service(Echo())], transport=transport) as served:
        client = served.client(served.authority.user("ana"), DESCRIPTOR)
        await call(client, b"before")
        guard_forks()
        # Threads, so that server and channel are at work while the children are started.
        loaded, _ = await asyncio.gather(asyncio.to_thread(load), call(client, b"during"))
        assert [number for number, _ in loaded] == list(range(8))
        assert len({pid for _, pid in loaded} - {os.getpid()}) == 2
        assert await asyncio.to_thread(subprocess.check_output, [sys.executable, "-c", "print(1)"]) == b"1\n"
        await call(client, b"after")
        sys.stderr.write(LOADED)
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        await call(client, b"forked")
        sys.stderr.write(FORKED)


def load() -> list[tuple[int, int]]:
    """Return what two workers of a data loader read, started as the guard has them started."""
    from torch.utils.data import DataLoader

    return list(DataLoader(Numbers(), batch_size=None, num_workers=2))  # type: ignore[arg-type]  # a sequence will do


async def call(client: ServiceClient, value: bytes) -> None:
    """Make a call and hold the answer to what was sent."""
    assert (await client.call("Echo", BytesValue(value=value), timeout=60.0)).value == value


if __name__ == "__main__":
    configure_logging("test")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(Path(sys.argv[1]), sys.argv[2]))
