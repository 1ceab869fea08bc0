"""Opens connections as fast as they come, 32 at once, each for one call. Arguments: port, identity folder, how many.

A storm comes from other machines. This one shares its processors with the server and with the generator of the steady load,
so it runs behind both: otherwise what it takes from them would be counted as the server's.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import uvloop

from benchmarks.rpc.client import Load, bodies, connect
from benchmarks.rpc.server import ECHO
from tests.support.h2_peer import client_context

AT_ONCE = 32
NICE = 10


async def main() -> None:
    """Open them; fail if an answer is missing."""
    os.nice(NICE)
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
