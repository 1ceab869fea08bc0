"""One child process: started so that it dies with the supervisor, its output in a bounded log, its end awaited."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from suite.log_file import LogFile

_LAUNCHER = Path(__file__).with_name("launch.py")
_READ_BYTES = 64 * 1024


class Process:
    """A running child. Lives on one event loop; start it with ``Process.start``.

    Attributes:
        ended: the exit code, once it has ended; negative for a signal.
    """

    def __init__(self, popen: subprocess.Popen[bytes], output: int, log: LogFile) -> None:
        self._popen = popen
        self._output = output
        self._log = log
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(popen.pid)
        self._loop.add_reader(self._pidfd, self._on_end)
        os.set_blocking(output, False)
        self._loop.add_reader(output, self._on_output)

    @classmethod
    def start(
        cls, command: Sequence[str], environment: Mapping[str, str], log: LogFile, folder: Path | None = None
    ) -> Process:
        """Start a command in a session of its own, so that a Ctrl-C in the terminal reaches the supervisor alone.

        Args:
            command: what to run.
            environment: its whole environment.
            log: for what it prints.
            folder: where it runs; where the supervisor does by default.

        Raises:
            OSError: there is no room for another process.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            popen = subprocess.Popen(  # noqa: S603 - the command of a unit
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), *command],
                env=dict(environment),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=writer,
                stderr=writer,
                start_new_session=True,
            )
        except BaseException:
            os.close(reader)
            raise
        finally:
            os.close(writer)
        try:
            return cls(popen, reader, log)
        except OSError:
            # Nobody would know of it.
            popen.kill()
            popen.wait()
            os.close(reader)
            raise

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative for a signal."""
        return self.ended.result() if self.ended.done() else None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it still runs."""
        if not self.ended.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def stop(self, grace: float) -> int:
        """Ask it to end, insist after ``grace`` seconds, and return the exit code."""
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(grace):
                return await asyncio.shield(self.ended)
        except TimeoutError:
            self.signal(signal.SIGKILL)
            return await asyncio.shield(self.ended)

    def drop_output(self) -> None:
        """Stop reading its output; for when something it left behind still holds the pipe."""
        if self._output >= 0:
            self._loop.remove_reader(self._output)
            os.close(self._output)
            self._output = -1

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.ended.set_result(self._popen.wait())

    def _on_output(self) -> None:
        try:
            content = os.read(self._output, _READ_BYTES)
        except BlockingIOError:
            return
        if content:
            # A full disk costs lines of a log, not the service.
            with contextlib.suppress(OSError):
                self._log.write(content)
        else:
            self.drop_output()


def resident_mib(pid: int) -> int:
    """Return the resident memory of a process in MiB; 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)
    except (OSError, IndexError):
        return 0


def start_ticks(pid: int) -> int | None:
    """Return when a process started, in ticks since boot: with the pid it names one process for ever. None when gone."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            # The command in parentheses may hold anything; the fields after it are fixed.
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
