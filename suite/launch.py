"""Becomes a service that dies with its supervisor: ``python -I -S launch.py <supervisor pid> <command…>``.

The kernel is told to kill this process when the supervisor is gone; then it turns into the command and stays the same
process. A step of its own instead of code between fork and exec in the supervisor, which runs threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Run."""
    supervisor, command = int(sys.argv[1]), sys.argv[2:]
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        # It died before the kernel was told.
        sys.exit(1)
    os.execvp(command[0], command)  # noqa: S606 - the command the supervisor gave


if __name__ == "__main__":
    main()
