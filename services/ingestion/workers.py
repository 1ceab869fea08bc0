"""Runs blocking work on threads of its own, so that long work on the lake never holds up short calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from hedgerow.errors import CallCancelledError
from libs.telemetry.pool import ObservedPool

T = TypeVar("T")
Stop = Callable[[], None]
"""Raises CallCancelledError once nobody waits for the work any more; called between its steps."""


class Workers:
    """A few threads for work on the lake."""

    def __init__(self, threads: int) -> None:
        self.pool = ObservedPool(threads, "lake")

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Return what the work returns; when the call is cancelled the work stops at its next step."""
        cancelled = threading.Event()

        def stop() -> None:
            if cancelled.is_set():
                raise CallCancelledError("the call was cancelled, so its work stopped")

        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, work, stop)
        finally:
            cancelled.set()

    async def close(self) -> None:
        """Wait for what is under way and end the threads."""
        await asyncio.to_thread(self.pool.shutdown)
