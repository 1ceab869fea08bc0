"""A fork after gRPC has started can hang the child and break the parent's channels, so every process here spawns.

``subprocess`` and ``multiprocessing`` with the spawn method do not fork the interpreter and are not affected. A library
that forks all the same is named in the log, where a test and an operator can see it.
"""

from __future__ import annotations

import multiprocessing
import os

from libs.telemetry import get_logger

log = get_logger()


def guard_forks() -> None:
    """Make spawn the default of ``multiprocessing``, and log each fork of this process from now on."""
    multiprocessing.set_start_method("spawn", force=True)
    os.register_at_fork(before=lambda: log.warning("forked_after_grpc_started"))
