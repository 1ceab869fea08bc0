"""The supervisor's last will: waits until the supervisor is gone, then ends every process of its run.

``python -I -S guard.py <run>``, with a pipe on standard input whose other end only the supervisor holds. The kernel kills
the services themselves with their supervisor (``launch.py``), but not what they started in turn; those carry the mark of
the run in their environment, and are found by it. Only processes of the same user with exactly that mark are touched.
"""

import contextlib
import os
import signal
import sys
import time

RUN_VARIABLE = "HEDGEROW_SUITE_RUN"
UNIT_VARIABLE = "HEDGEROW_SUITE_UNIT"
_ROUNDS = 50
_PAUSE_SECONDS = 0.1


def marked(run: str, unit: str = "") -> list[int]:
    """Return the pids of this user's processes that belong to a run, or to one unit of it."""
    wanted = {f"{RUN_VARIABLE}={run}".encode()}
    if unit:
        wanted.add(f"{UNIT_VARIABLE}={unit}".encode())
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208 - names are all it needs
        if entry.isdecimal() and int(entry) != os.getpid():
            # A process of another user, or one that has just ended.
            with contextlib.suppress(OSError), open(f"/proc/{entry}/environ", "rb") as file:
                if wanted <= set(file.read().split(b"\0")):
                    found.append(int(entry))
    return found


def end_marked(run: str, unit: str = "") -> int:
    """Kill what is left of a run, or of one unit of it, until nothing is; return how many were killed."""
    killed = set()
    for _ in range(_ROUNDS):
        left = marked(run, unit)
        if not left:
            break
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        time.sleep(_PAUSE_SECONDS)
    return len(killed)


def main() -> None:
    """Run."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while os.read(0, 1):
        pass
    end_marked(sys.argv[1])


if __name__ == "__main__":
    main()
