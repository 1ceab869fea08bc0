"""A watch that never ends: whatever breaks it off, it is opened again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from hedgerow.client import ServiceClient
from hedgerow.errors import HedgerowError
from libs.runtime.vital_signs import Watches
from libs.telemetry import get_logger

WATCH_SECONDS = 3600.0
RETRY_SECONDS = 1.0
log = get_logger()


async def follow(
    client: ServiceClient, method: str, request: Any, apply: Callable[[Any], Awaitable[None]], watches: Watches
) -> None:
    """Apply each message of a watch, opening it again for ever at a steady pace."""
    watches.broken(method)
    while True:
        try:
            async for message in client.stream(method, request, timeout=WATCH_SECONDS):
                await apply(message)
                watches.opened(method)
        except Exception as error:  # a full disk must not end what brings policies and revocations
            reason = error.reason if isinstance(error, HedgerowError) else type(error).__name__
            log.warning("watch_interrupted", method=method, reason=reason)
        watches.broken(method)
        await asyncio.sleep(RETRY_SECONDS)
