"""How late the event loop is: what a call that has arrived waits before anything is done about it."""

from __future__ import annotations

import asyncio
import time

from libs.telemetry.instruments import Instruments

INTERVAL_SECONDS = 0.25


async def watch_loop(instruments: Instruments, interval: float = INTERVAL_SECONDS) -> None:
    """Measure for ever how much later than asked the loop wakes this task."""
    lag = instruments.histogram("hedgerow_event_loop_lag_seconds", "Seconds by which the event loop was late.")
    while True:
        due = time.perf_counter() + interval
        await asyncio.sleep(interval)
        lag.observe(max(0.0, time.perf_counter() - due))
