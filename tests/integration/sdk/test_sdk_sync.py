"""The SDK without an event loop: threads, interrupts, forks, and a clean end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import DeadlineExceededError, NotFoundError
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.sdk import SyncHedgerow
from tests.integration.sdk.mirror import Suite

GET = ingestion_pb2.GetDatasetRequest(name="datasets/d")
ROOT = Path(__file__).parents[3]
CONNECT = """
import json, os, sys, threading
from pathlib import Path
from hedgerow.identity import IdentityFolder
from hedgerow.sdk import SyncHedgerow
hedgerow = SyncHedgerow.connect(IdentityFolder(Path(sys.argv[2])), json.loads(sys.argv[1]))
"""


async def start(suite: Suite, script: str) -> asyncio.subprocess.Process:
    """Start a script that has a connection called `hedgerow`."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "error", "-c", CONNECT + script, json.dumps(suite.addresses), str(suite.identity.folder)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def ended(process: asyncio.subprocess.Process) -> tuple[int | None, str, str]:
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_many_threads_share_one_connection(suite: Suite) -> None:
    def work() -> int:
        with (
            SyncHedgerow.connect(suite.identity, suite.addresses, purpose="p") as hedgerow,
            ThreadPoolExecutor(8) as pool,
        ):
            names = pool.map(lambda n: hedgerow.ingestion.get_dataset(f"datasets/{n}"), range(64))
            return len(list(names))

    assert await asyncio.to_thread(work) == 64
    assert suite.mirror.calls == [("hedgerow.ingestion.v1.IngestionService.GetDataset", "p")] * 64


async def test_listings_and_errors_are_those_of_the_asynchronous_clients(suite: Suite) -> None:
    def work(hedgerow: SyncHedgerow) -> None:
        assert list(hedgerow.ingestion.list_datasets()) == []
        suite.mirror.failures = [NotFoundError("no such dataset")]
        with pytest.raises(NotFoundError, match="no such dataset"):
            hedgerow.ingestion.get_dataset("datasets/d")
        suite.mirror.delay = 60
        with pytest.raises(DeadlineExceededError):
            hedgerow.rpcs.ingestion.get_dataset(GET, timeout=0.5)
        assert "list_datasets" in dir(hedgerow.ingestion)

    def connected() -> Any:
        with SyncHedgerow.connect(suite.identity, suite.addresses) as hedgerow:
            work(hedgerow)
        hedgerow.close()
        with pytest.raises(RuntimeError, match="closed"):
            hedgerow.ingestion.get_dataset("datasets/d")

    await asyncio.to_thread(connected)


async def test_leaving_a_stream_early_cancels_it(suite: Suite) -> None:
    def work() -> None:
        with SyncHedgerow.connect(suite.identity, suite.addresses) as hedgerow:
            stream = hedgerow.governance.export_audit_trail()
            next(stream)
            stream.close()
            assert list(stream) == []

    await asyncio.to_thread(work)
    await suite.servers["governance"].chain.wait_idle()


async def test_an_interrupt_cancels_the_call_on_the_server_too(suite: Suite) -> None:
    suite.mirror.delay = 600
    process = await start(
        suite,
        """
try:
    with hedgerow:
        hedgerow.ingestion.get_dataset("datasets/d")
except KeyboardInterrupt:
    print("interrupted", [t.name for t in threading.enumerate() if t.name == "hedgerow-sdk"])
""",
    )
    async with asyncio.timeout(120):
        while not suite.mirror.calls:
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        await suite.mirror.cancelled.wait()
    assert await ended(process) == (0, "interrupted []\n", "")


async def test_a_forked_child_is_told_to_connect_anew(suite: Suite) -> None:
    process = await start(
        suite,
        """
hedgerow.ingestion.get_dataset("datasets/d")
child = os.fork()
if child == 0:
    try:
        hedgerow.ingestion.get_dataset("datasets/d")
    except RuntimeError as error:
        os.write(1, str(error).encode() + b"\\n")
    os._exit(0)
os.waitpid(child, 0)
hedgerow.ingestion.get_dataset("datasets/d")
hedgerow.close()
print("parent goes on", flush=True)
""",
    )
    code, out, _ = await ended(process)
    assert code == 0
    assert out.splitlines() == [
        "this connection was opened before a fork; open one in each process, after the fork",
        "parent goes on",
    ]


async def test_a_program_that_forgets_to_close_ends_cleanly(suite: Suite) -> None:
    process = await start(suite, 'hedgerow.ingestion.get_dataset("datasets/d")\nprint("done")\n')
    assert await ended(process) == (0, "done\n", "")
