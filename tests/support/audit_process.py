"""A process that appends audit events for ever and prints each acknowledged number: killed by the test.

Usage: python -m tests.support.audit_process DIRECTORY FIRST_NUMBER
"""

import asyncio
import os
import sys
from pathlib import Path

from hedgerow.errors import UnavailableError
from libs.audit import AuditLimits
from tests.support.audit_sink import Sink
from tests.support.audit_trail import event


async def main(directory: Path, first: int) -> None:
    """Appends from several tasks, so that blocks hold several events."""
    sink = Sink()
    sink.ship_fault = UnavailableError("what is shipped to this process would go with it")
    writer = sink.writer(directory, limits=AuditLimits(segment_bytes=60_000, upkeep_seconds=3600))
    await writer.start()
    number = first

    async def append() -> None:
        nonlocal number
        while True:
            mine, number = number, number + 1
            await writer.append(event(mine))
            os.write(1, f"{mine}\n".encode())

    await asyncio.gather(*(append() for _ in range(8)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
