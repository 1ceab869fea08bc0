"""The suite that the demo runs against: the one that is up, or one that the demo starts and stops again."""

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil

from examples.credit.run import DemoError
from hedgerow.sdk.context import SERVICES, Context
from suite.run_file import RunFolder, RunState

START_SECONDS = 120.0
STOP_SECONDS = 60.0
_MIB = 1024 * 1024


class LocalSuite:
    """The suite in a folder of this machine."""

    def __init__(self, folder: Path, profile: str) -> None:
        self.folder = folder
        self.profile = profile
        self._run = RunFolder(folder / "run")
        self.started_here = False

    def state(self) -> RunState | None:
        """Returns what the supervisor says, or None when none is alive."""
        state = self._run.read()
        return state if state is not None and state.is_alive() else None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Starts the suite if it is not up; stops it at the end if it was started here."""
        if self.state() is None:
            self.started_here = True
        try:
            if self.started_here:
                await self._command("up", "--detach", seconds=START_SECONDS)
            yield
        finally:
            if self.started_here and self.state() is not None:
                await self._command("down", seconds=STOP_SECONDS)

    def context(self) -> Context:
        """Returns where the suite is, as it wrote when it began to serve."""
        state = self.state()
        if state is None:
            raise DemoError(f"no suite is running in {self.folder}")
        missing = [service for service in SERVICES if service not in state.services]
        if missing:
            raise DemoError(f"the suite in {self.folder} runs without {', '.join(missing)}")
        return Context.load(self.folder)

    async def _command(self, *arguments: str, seconds: float) -> None:
        """Runs a command of the suite; what it says about itself reaches the user when it fails."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "suite",
            *arguments,
            "--dir",
            str(self.folder),
            "--profile",
            self.profile,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            process.terminate()
            await process.wait()
            raise DemoError(f"`python -m suite {arguments[0]}` took longer than {seconds:.0f} s") from None
        if process.returncode:
            told = output.decode(errors="replace").strip()
            raise DemoError(f"`python -m suite {arguments[0]}` failed: {told}")

    def memory_mib(self) -> float:
        """Returns the resident memory of the supervisor and all its descendants in MiB.

        Pages that processes share count once for each of them, so this is an upper bound.
        """
        state = self.state()
        if state is None:
            raise DemoError("the suite went away during the run")
        supervisor = psutil.Process(state.pid)
        total = 0
        for process in (supervisor, *supervisor.children(recursive=True)):
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        return total / _MIB
