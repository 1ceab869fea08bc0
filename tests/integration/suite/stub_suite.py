"""A supervisor of stub services: ``python -m tests.integration.suite.stub_suite FOLDER NAME[:MODE[:AFTER]]…``.

While there is a file ``FOLDER/full`` the disk is full for the supervisor, and while there is ``FOLDER/no-room`` no process
can be started.
"""

import asyncio
import errno
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import suite.supervisor
from suite.process import Process
from suite.run_file import RunFolder, RunState
from suite.supervisor import Supervisor
from suite.unit import Unit

STUB = Path(__file__).with_name("stub_service.py")
UPKEEP_SECONDS = 0.1


def fail_if(file: Path, number: int) -> None:
    if file.exists():
        raise OSError(number, os.strerror(number))


class FullDisk(RunFolder):
    """The folder of a run, which cannot be written now and then."""

    def write(self, state: RunState) -> None:
        fail_if(self.folder.parent / "full", errno.ENOSPC)
        super().write(state)


class NoRoom(Process):
    """A process that cannot be started now and then."""

    folder: Path

    def __init__(self, *arguments: Any) -> None:
        fail_if(self.folder / "no-room", errno.EMFILE)
        super().__init__(*arguments)


def unit(folder: Path, text: str, tier: int) -> Unit:
    name, mode, after = (*text.split(":"), "", "")[:3]
    pid_file = folder / f"{name}.pid"

    def healthy() -> Callable[[], Awaitable[bool]]:
        async def check() -> bool:
            if mode == "unkept":
                raise LookupError("a fault of our own")
            fail_if(folder / f"{name}.unasked", errno.ENOSPC)
            return pid_file.exists() and Path(f"/proc/{pid_file.read_text() or 0}").exists()

        return check

    def upkeep(pid: int) -> None:
        with (folder / f"{name}.upkeep").open("a") as rounds:
            rounds.write(f"{pid}\n")
        if mode == "neglected":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return Unit(
        name=name,
        command=[sys.executable, str(STUB), str(folder), name, *filter(None, [mode])],
        environment=dict(os.environ),
        healthy=healthy(),
        log=folder / "logs" / f"{name}.log",
        after=[after] if after else [],
        tier=tier,
        upkeep=upkeep,
        start_seconds=1.0 if mode == "silent" else 60.0,
        stop_seconds=1.0,
    )


def main() -> int:
    folder = Path(sys.argv[1])
    run = FullDisk(folder / "run")
    if not run.lock():
        print("running already")
        return 0
    units = [unit(folder, text, tier) for tier, text in enumerate(sys.argv[2:])]

    def say(line: str) -> None:
        print(line, flush=True)
        fail_if(folder / "full", errno.ENOSPC)

    NoRoom.folder = folder
    suite.supervisor.Process = NoRoom  # type: ignore[misc]
    return asyncio.run(Supervisor(units, run, say=say, upkeep_seconds=UPKEEP_SECONDS).run())


if __name__ == "__main__":
    sys.exit(main())
