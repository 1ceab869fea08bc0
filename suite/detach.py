"""``up --detach``: a supervisor that outlives the command that started it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from suite.config import SuiteConfig
from suite.run_file import RunFolder

_ROOT = Path(__file__).resolve().parent.parent
_POLL_SECONDS = 0.1


def detach(arguments: Sequence[str], config: SuiteConfig, folder: RunFolder) -> int:
    """Start a supervisor that outlives this process, and relay what it says until it serves or fails.

    Args:
        arguments: of the command, less ``--detach``.
        config: of the suite.
        folder: where the supervisor reports.

    Returns:
        The exit code: 0 once it serves.
    """
    log = config.folder / "logs" / "supervisor.log"
    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as output:
        child = subprocess.Popen(  # noqa: S603 - this very program, with the flags it was given
            [sys.executable, "-m", "suite", *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, cwd=_ROOT,
        )  # fmt: skip
    try:
        return _relay(child, log, folder)
    except KeyboardInterrupt:
        child.terminate()
        child.wait()
        return 130


def _relay(child: subprocess.Popen[bytes], log: Path, folder: RunFolder) -> int:
    with log.open() as lines:
        while True:
            ended = child.poll()
            state = folder.read()
            serving = state is not None and state.pid == child.pid and state.phase == "serving"
            if serving:
                # Its last words of the start follow the change of state at once.
                time.sleep(_POLL_SECONDS)
            sys.stdout.write(lines.read())
            sys.stdout.flush()
            if ended is not None:
                return ended
            if serving:
                return 0
            time.sleep(_POLL_SECONDS)
