"""Keeps units running: starts them in order, restarts what crashes, stops them in reverse, leaves nothing behind.

Once they run, nothing that fails around them ends them: a full disk costs the state that ``status`` reads and lines for a
person, and a process that cannot be started counts as one that crashed.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hedgerow.errors import HedgerowError
from suite.guard import RUN_VARIABLE, UNIT_VARIABLE, end_marked
from suite.log_file import LogFile
from suite.process import Process, start_ticks
from suite.restart import RestartPolicy
from suite.run_file import RunFolder, RunState, ServiceState
from suite.unit import Unit, UnitError

PROBE_SECONDS = 0.1
UPKEEP_SECONDS = 30.0
TAIL_LINES = 5
_GUARD = Path(__file__).with_name("guard.py")


class Supervisor:
    """Runs a set of units until it is told to stop."""

    def __init__(
        self,
        units: Sequence[Unit],
        folder: RunFolder,
        *,
        ports: Mapping[str, int] | None = None,
        say: Callable[[str], None] = lambda line: None,
        upkeep_seconds: float = UPKEEP_SECONDS,
    ) -> None:
        """Prepare.

        Args:
            units: in the order in which they are listed and started.
            folder: locked by the caller.
            ports: of the suite, for ``status``.
            say: tells a person what happens, a line at a time.
            upkeep_seconds: between two rounds of what units want done now and then.

        Raises:
            OSError: a log cannot be opened.
        """
        self._units = list(units)
        self._folder = folder
        self._say = say
        self._upkeep_seconds = upkeep_seconds
        self._is_unwritten = False
        self._neglected: set[str] = set()
        self._ready = {unit.name: asyncio.Event() for unit in units}
        self._stopped = asyncio.Event()
        self._gave_up = asyncio.Event()
        self._processes: dict[str, Process] = {}
        self._logs = {unit.name: LogFile(unit.log) for unit in units}
        ticks = start_ticks(os.getpid())
        assert ticks is not None, "this process runs"
        self.state = RunState(os.getpid(), ticks, secrets.token_hex(8), ports=dict(ports or {}))
        for unit in units:
            self.state.services[unit.name] = ServiceState(since=time.time(), ports=dict(unit.ports), log=str(unit.log))

    async def run(self) -> int:
        """Start everything, keep it running until a signal, stop everything; return the exit code.

        Raises:
            OSError: not even the state can be written, or the guard started; nothing else was.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self.stop)
        self._folder.write(self.state)
        guard, will = _start_guard(self.state.run)
        keepers = {unit.name: self._keeper(unit) for unit in self._units}
        try:
            if await self._started():
                self._set_phase("serving")
                await self._upkeep()
            failed = bool(self.state.failure)
            self.state.phase = "stopping"
            self._write()
            await self._stop_all(keepers)
            self._set_phase("failed" if failed else "stopped")
            return 1 if failed else 0
        finally:
            for keeper in keepers.values():
                keeper.cancel()
            await asyncio.to_thread(end_marked, self.state.run)
            os.close(will)
            await asyncio.to_thread(guard.wait, 15)

    def stop(self) -> None:
        """Begin the shutdown; a second call ends every process at once."""
        if self._stopped.is_set():
            for process in self._processes.values():
                process.signal(signal.SIGKILL)
        self._stopped.set()

    # ---- start

    async def _started(self) -> bool:
        """Return whether everything serves; False when a unit was given up, or a stop came first."""
        everything = asyncio.create_task(self._all_ready())
        ends = [asyncio.create_task(self._stopped.wait()), asyncio.create_task(self._gave_up.wait())]
        await asyncio.wait([everything, *ends], return_when=asyncio.FIRST_COMPLETED)
        ready = everything.done() and not self._stopped.is_set() and not self._gave_up.is_set()
        for task in (everything, *ends):
            task.cancel()
        return ready

    async def _all_ready(self) -> None:
        for event in self._ready.values():
            await event.wait()

    async def _upkeep(self) -> None:
        """Until the stop: what units want done now and then, and the state where it could not be written before."""
        while not self._stopped.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._upkeep_seconds):
                    await self._stopped.wait()
            if self._is_unwritten:
                self._write()
            for unit in self._units:
                process = self._processes.get(unit.name)
                if unit.upkeep is not None and process is not None:
                    await self._tend(unit, unit.upkeep, process.pid)

    async def _tend(self, unit: Unit, upkeep: Callable[[int], None], pid: int) -> None:
        """Do one unit's upkeep; say so when it begins to fail."""
        (error,) = await asyncio.gather(asyncio.to_thread(upkeep, pid), return_exceptions=True)
        if error is None:
            self._neglected.discard(unit.name)
        elif unit.name not in self._neglected:
            self._neglected.add(unit.name)
            self._tell(f"{unit.name:<12} its upkeep fails, and is tried again: {error}")

    def _keeper(self, unit: Unit) -> asyncio.Task[None]:
        keeper = asyncio.create_task(self._keep(unit), name=unit.name)
        keeper.add_done_callback(functools.partial(self._on_keeper_end, unit))
        return keeper

    def _on_keeper_end(self, unit: Unit, keeper: asyncio.Task[None]) -> None:
        error = None if keeper.cancelled() else keeper.exception()
        if error is not None:
            asyncio.get_running_loop().call_exception_handler({"message": f"keeping {unit.name}", "exception": error})
            self._give_up(unit, f"cannot be kept running: {error!r}")

    async def _keep(self, unit: Unit) -> None:
        """Keep one unit running."""
        for name in unit.after:
            await self._ready[name].wait()
        policy = RestartPolicy()
        attempt = 0
        while not self._stopped.is_set():
            attempt += 1
            code, words = await self._run_once(unit, policy, attempt)
            if self._stopped.is_set():
                break
            # What it started in turn may hold its ports.
            await asyncio.to_thread(end_marked, self.state.run, unit.name)
            delay = policy.crashed(time.monotonic(), code)
            service = self.state.services[unit.name]
            service.last_exit, service.restarts, service.pid = words, policy.restarts, 0
            if delay is None:
                self._give_up(unit, words)
                return
            self._enter(unit, "restarting", f"{words}; starting it again")
            await asyncio.sleep(delay)
        self._enter(unit, "stopped")

    async def _run_once(self, unit: Unit, policy: RestartPolicy, attempt: int) -> tuple[int, str]:
        """Start a unit and return when it has ended, with its exit code and that in words."""
        self._enter(unit, "starting")
        try:
            await unit.prepare(attempt)
        except (UnitError, HedgerowError, OSError) as error:
            return 1, f"cannot be prepared: {error}"
        marks = {RUN_VARIABLE: self.state.run, UNIT_VARIABLE: unit.name}
        try:
            process = Process.start(
                unit.command, {**unit.environment, **marks}, self._logs[unit.name], folder=unit.folder
            )
        except OSError as error:
            return 1, f"cannot be started: {error}"
        self._processes[unit.name] = process
        self.state.services[unit.name].pid = process.pid
        try:
            words = await self._until_healthy(unit, process)
            if words:
                await process.stop(unit.stop_seconds)
                return 1, words
            if process.exit_code is None:
                policy.served()
                self._enter(unit, "serving")
                self._ready[unit.name].set()
            code = await asyncio.shield(process.ended)
            return code, _in_words(code)
        finally:
            # It has ended, unless the keeper did first: then nobody would end it before everything stops.
            process.signal(signal.SIGKILL)
            del self._processes[unit.name]
            process.drop_output()

    async def _until_healthy(self, unit: Unit, process: Process) -> str:
        """Return when the process serves or has ended; in words why it must be ended otherwise."""
        deadline = time.monotonic() + unit.start_seconds
        while process.exit_code is None and not self._stopped.is_set():
            why = ""
            try:
                if await unit.healthy():
                    break
            except UnitError as error:
                return str(error)
            except (HedgerowError, OSError) as error:
                # It cannot be asked just now.
                why = f": {error}"
            if time.monotonic() > deadline:
                return f"did not become healthy within {unit.start_seconds:g} s{why}"
            await asyncio.wait([process.ended], timeout=PROBE_SECONDS)
        return ""

    def _give_up(self, unit: Unit, words: str) -> None:
        lines: list[str] = []
        with contextlib.suppress(OSError):
            lines = self._logs[unit.name].tail(TAIL_LINES)
        tail = "".join(f"\n    {line[:300]}" for line in lines)
        service = self.state.services[unit.name]
        failure = f"{unit.name} {words}; given up after {service.restarts + 1} starts. Its log, {unit.log}, ends:{tail}"
        self._enter(unit, "failed", failure)
        if self.state.phase == "starting":
            self.state.failure = failure
            self._gave_up.set()

    # ---- stop

    async def _stop_all(self, keepers: dict[str, asyncio.Task[None]]) -> None:
        self._stopped.set()
        for tier in sorted({unit.tier for unit in self._units}, reverse=True):
            units = [unit for unit in self._units if unit.tier == tier]
            await asyncio.gather(*(self._stop_one(unit, keepers[unit.name]) for unit in units))

    async def _stop_one(self, unit: Unit, keeper: asyncio.Task[None]) -> None:
        process = self._processes.get(unit.name)
        if process is None:
            # Waiting for its turn or for its pause to end.
            keeper.cancel()
        else:
            await process.stop(unit.stop_seconds)
        await asyncio.gather(keeper, return_exceptions=True)
        if self.state.services[unit.name].phase != "failed":
            self._enter(unit, "stopped")

    # ---- what others see

    def _enter(self, unit: Unit, phase: str, words: str = "") -> None:
        service = self.state.services[unit.name]
        if service.phase == phase and not words:
            return
        service.phase, service.since = phase, time.time()
        if phase == "stopped":
            service.pid = 0
        self._write()
        if phase != "starting":
            self._tell(f"{unit.name:<12} {phase}{': ' + words if words else ''}")

    def _set_phase(self, phase: str) -> None:
        self.state.phase = phase
        self._write()
        self._tell(f"suite        {phase}")

    def _write(self) -> None:
        """Write the state down where that can be done; say so when it begins to fail."""
        try:
            self._folder.write(self.state)
            self._is_unwritten = False
        except OSError as error:
            if not self._is_unwritten:
                self._is_unwritten = True
                self._tell(f"suite        `status` is out of date: its state cannot be written ({error.strerror})")

    def _tell(self, line: str) -> None:
        # What it goes to may be a file on a full disk, or a pipe whose reader is gone.
        with contextlib.suppress(OSError):
            self._say(line)


def _start_guard(run: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start the guard; it acts when the returned descriptor is closed, by us or by our death."""
    reader, will = os.pipe2(os.O_CLOEXEC)
    guard = subprocess.Popen(  # noqa: S603 - our own guard
        [sys.executable, "-I", "-S", str(_GUARD), run],
        stdin=reader,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(reader)
    return guard, will


def _in_words(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
