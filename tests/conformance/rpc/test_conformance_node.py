"""The interoperability cases with ``@grpc/grpc-js``, whose HTTP/2 is Node's own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.rpc.interop import SPECIAL, InteropEcho
from tests.support.authority import folder
from tests.support.serving import Served

NODE = Path(__file__).parent / "node"
PACKAGES = Path(__file__).parents[3] / "var" / "cache" / "grpc-js"

pytestmark = pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node and npm")


async def run(*command: str, **environment: str) -> bytes:
    """Run a command to its end and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=os.environ | environment
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()[-2000:]
    return out


async def installed() -> Path:
    """Return the folder with the packages of the lock file, installed there when it changed."""
    lock = (NODE / "package-lock.json").read_bytes()
    done = PACKAGES / "node_modules" / ".done"
    if not done.exists() or done.read_bytes() != lock:
        PACKAGES.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json"):
            shutil.copy(NODE / name, PACKAGES / name)
        await run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(PACKAGES))
        done.write_bytes(lock)
    return PACKAGES / "node_modules"


async def test_grpc_js(served: Served, echo: InteropEcho, tmp_path: Path) -> None:
    modules = await installed()
    ana = folder(tmp_path / "ana", served.authority.user("ana"))
    out = await run("node", str(NODE / "client.js"), served.target, str(ana.folder), NODE_PATH=str(modules))
    seen: dict[str, Any] = json.loads(out)
    unimplemented = "/hedgerow.testing.v1.EchoService/Nope is not a method of this server"
    assert seen == {
        "emptyUnary": {"size": 0},
        "largeUnary": {"size": 314_159},
        "clientStreaming": {"text": "abbccc"},
        "serverStreaming": {"code": 0, "seen": ["1"] * 10},
        "pingPong": {"code": 0, "seen": [31_415, 9, 2_653, 58_979]},
        "emptyStream": {"code": 3, "seen": []},
        "timeout": {"code": 4, "details": seen["timeout"]["details"]},
        "cancelAfterBegin": {"code": 1},
        "cancelAfterFirst": {"code": 1, "seen": [31_415]},
        "status": {"code": 10, "details": "test status message"},
        "special": {"code": 10, "details": SPECIAL},
        "unimplementedMethod": {"code": 12, "details": unimplemented},
        "unimplementedService": {"code": 12, "seen": []},
        "metadata": {"size": 1},
        "compressed": {"size": 9},
    }
    assert "x-raw-bin" not in echo.metadata[-2]
    assert echo.metadata[-2]["x-text"] == "a b,c;=~!"
    assert echo.binary[-2] == {"x-raw-bin": b"\x00\xff\xab"}
    await served.chain.wait_idle()
