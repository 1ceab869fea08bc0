"""A supervisor of stub services: ``python -m tests.integration.suite.stub_suite FOLDER NAME[:MODE[:AFTER]]…``."""

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

from suite.run_file import RunFolder
from suite.supervisor import Supervisor
from suite.unit import Unit

STUB = Path(__file__).with_name("stub_service.py")


def unit(folder: Path, text: str, tier: int) -> Unit:
    name, mode, after = (*text.split(":"), "", "")[:3]
    pid_file = folder / f"{name}.pid"

    def healthy() -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            return pid_file.exists() and Path(f"/proc/{pid_file.read_text() or 0}").exists()

        return check

    return Unit(
        name=name,
        command=[sys.executable, str(STUB), str(folder), name, *filter(None, [mode])],
        environment=dict(os.environ),
        healthy=healthy(),
        log=folder / "logs" / f"{name}.log",
        after=[after] if after else [],
        tier=tier,
        start_seconds=1.0 if mode == "silent" else 60.0,
        stop_seconds=1.0,
    )


def main() -> int:
    folder = Path(sys.argv[1])
    run = RunFolder(folder / "run")
    if not run.lock():
        print("running already")
        return 0
    units = [unit(folder, text, tier) for tier, text in enumerate(sys.argv[2:])]
    return asyncio.run(Supervisor(units, run, say=lambda line: print(line, flush=True)).run())


if __name__ == "__main__":
    sys.exit(main())
