"""Opens connections as fast as they come, 32 at once, each for one call. Arguments: port, identity folder, how many."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvloop

from benchmarks.rpc.client import Load, bodies, connect
from benchmarks.rpc.server import ECHO
from tests.support.h2_peer import client_context

AT_ONCE = 32


async def main() -> None:
    """Open them; fail if an answer is missing."""
    port, context, count = int(sys.argv[1]), client_context(Path(sys.argv[2])), int(sys.argv[3])
    gate, sent = asyncio.Semaphore(AT_ONCE), bodies(160)[:1]

    async def one() -> int:
        async with gate:
            load = Load(ECHO, sent, running=False)
            connection = await connect(port, context, load, 1)
            await asyncio.wait_for(connection.idle.wait(), 30)
            connection.close()
            return load.calls

    if sum(await asyncio.gather(*(one() for _ in range(count)))) != count:
        raise SystemExit(1)


if __name__ == "__main__":
    uvloop.run(main())
