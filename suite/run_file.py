"""What a running supervisor leaves for ``status`` and ``down``: who it is and how its services do.

``run/suite.json`` is replaced in one rename at each change. ``run/lock`` is held for life, so that there is one supervisor
per folder; the kernel releases it whatever happens. A copy of a folder holds the state of the original, whose processes are
none of the copy's: so the state names the folder that it was written in.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hedgerow.private_file import write_private
from suite.process import start_ticks


@dataclass
class ServiceState:
    """How one service does.

    Attributes:
        phase: ``waiting``, ``starting``, ``serving``, ``restarting``, ``stopped`` or ``failed``.
        pid: 0 when it does not run.
        since: when the phase began, seconds since 1970.
        restarts: how often it was started again after a crash.
        last_exit: in words how it last ended; empty when it never did.
        ports: by use.
        log: its log file.
    """

    phase: str = "waiting"
    pid: int = 0
    since: float = 0.0
    restarts: int = 0
    last_exit: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    log: str = ""


@dataclass
class RunState:
    """What ``run/suite.json`` holds.

    Attributes:
        pid: of the supervisor.
        start_ticks: when that process started; tells it from a later one of the same pid.
        run: mark in the environment of everything it started.
        phase: ``starting``, ``serving``, ``stopping``, ``stopped`` or ``failed``.
        failure: in words, when the phase is ``failed``.
        ports: of the running suite, by use, whatever the configuration says now.
        profile: of the running suite, likewise.
        folder: which folder it was written in; a move on its file system leaves that as it is, a copy is another one.
        services: by name, in the order of their start; the replicas of a service and the backing services among them.
    """

    pid: int
    start_ticks: int
    run: str
    phase: str = "starting"
    failure: str = ""
    ports: dict[str, int] = field(default_factory=dict)
    profile: str = "embedded"
    folder: str = ""
    services: dict[str, ServiceState] = field(default_factory=dict)

    def is_alive(self) -> bool:
        """Whether that very supervisor still runs."""
        return start_ticks(self.pid) == self.start_ticks


class RunFolder:
    """The folder ``run`` of a suite."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = folder / "suite.json"
        self._lock: int | None = None

    def lock(self) -> bool:
        """Take the place of the one supervisor; return whether it was free."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        self._lock = fd
        return True

    def write(self, state: RunState) -> None:
        """Replace the state.

        Raises:
            OSError: such as a full disk; the former state is still there.
        """
        state.folder = self._identity()
        write_private(self._file, json.dumps(asdict(state), indent=1).encode())

    def read(self) -> RunState | None:
        """Return the last state, of a supervisor that may be gone; None when there never was one in this very folder."""
        try:
            content = json.loads(self._file.read_text())
        except FileNotFoundError:
            return None
        # One from before folders were named is taken for ours: its supervisor may still run.
        if content.get("folder", "") not in ("", self._identity()):
            return None
        services = {name: ServiceState(**fields) for name, fields in content.pop("services").items()}
        return RunState(**content, services=services)

    def _identity(self) -> str:
        found = self.folder.stat()
        return f"{found.st_dev}:{found.st_ino}"
