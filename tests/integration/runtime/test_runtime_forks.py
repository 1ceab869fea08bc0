"""GRPC-08: with a live server and channel, children are spawned, and a fork is seen."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue

from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import serving

FORKING = """
import os, sys
from libs.runtime.fork_guard import guard_forks
from libs.telemetry import configure_logging
import multiprocessing
configure_logging("test")
guard_forks()
assert multiprocessing.get_start_method() == "spawn"
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
"""


async def test_children_leave_server_and_channel_alone(tmp_path: Path) -> None:
    async with serving(tmp_path, [echo_service(Echo())]) as served:
        client = served.client(served.authority.user("ana"), DESCRIPTOR)
        await client.call("Echo", BytesValue())
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=subprocess.PIPE)
        output, _ = await process.communicate()
        assert output == b"1\n"
        assert (await client.call("Echo", BytesValue(value=b"after"))).value == b"after"


async def test_a_fork_is_logged() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", FORKING, stderr=subprocess.PIPE)
    _, errors = await process.communicate()
    assert process.returncode == 0
    assert b"forked_after_grpc_started" in errors
