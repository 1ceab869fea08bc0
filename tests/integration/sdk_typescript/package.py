"""Installs and builds the TypeScript package in the cache, so that nothing is left in the source tree."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "sdk" / "typescript"
BUILT = ROOT / "var" / "cache" / "sdk-typescript"


async def run(*command: str, cwd: Path = BUILT, **environment: str) -> str:
    """Run a command to its end and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=cwd,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(180):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, out.decode()[-6000:]
    return out.decode()


async def built() -> Path:
    """Return the folder of the built package: packages as the lock file has them, code as it is now."""
    BUILT.mkdir(parents=True, exist_ok=True)
    lock = (SOURCE / "package-lock.json").read_bytes()
    for name in ("package.json", "package-lock.json", "tsconfig.json"):
        shutil.copy(SOURCE / name, BUILT / name)
    for name in ("src", "test", "live", "scripts", "dist"):
        shutil.rmtree(BUILT / name, ignore_errors=True)
        if name != "dist":
            shutil.copytree(SOURCE / name, BUILT / name, ignore=shutil.ignore_patterns("gen"))
    # What the guide shows must compile.
    guide = (ROOT / "docs" / "guide" / "sdk.md").read_text()
    for number, block in enumerate(re.findall(r"```typescript\n(.*?)```", guide, re.DOTALL)):
        (BUILT / "live" / f"guide{number}.ts").write_text(block.replace('"hedgerow-sdk"', '"../src/index.js"'))
    done = BUILT / "node_modules" / ".done"
    if not done.exists() or done.read_bytes() != lock:
        await run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
        done.write_bytes(lock)
    await run("npm", "run", "build", PYTHON=sys.executable, HEDGEROW_PROTOS=str(ROOT / "protos"))
    return BUILT
