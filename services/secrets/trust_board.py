"""The current trust bundle inside the service, and who waits for the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from hedgerow.errors import HedgerowError, ResourceExhaustedError
from libs.telemetry import get_logger
from services.secrets.trust import TrustBundle
from services.secrets.trust_store import TrustStore

MAX_WATCHERS = 1024
log = get_logger()


class TrustBoard:
    """Shows the newest bundle to any number of watchers, up to ``MAX_WATCHERS``. Lives on one event loop."""

    def __init__(self, store: TrustStore) -> None:
        self._store = store
        self._apply: Callable[[TrustBundle], Awaitable[None]] | None = None
        self._bundle = TrustBundle()
        self._changed = asyncio.Condition()
        self._watchers = 0

    async def show(self, bundle: TrustBundle) -> None:
        """Show a bundle unless a newer one is shown already."""
        if bundle.version <= self._bundle.version:
            return
        async with self._changed:
            self._bundle = bundle
            self._changed.notify_all()
        if self._apply is not None:
            await self._apply(bundle)

    async def apply_with(self, apply: Callable[[TrustBundle], Awaitable[None]]) -> None:
        """Have this process's own ports take over the current bundle and each new one."""
        self._apply = apply
        await apply(self._bundle)

    async def refresh(self) -> None:
        """Follow the secret server once; raises the errors of ``Vault``."""
        bundle, held = await asyncio.to_thread(self._store.refresh)
        for fingerprint in held:
            log.warning("root_still_in_use", fingerprint=fingerprint)
        await self.show(bundle)

    async def follow(self, seconds: float) -> None:
        """Refresh for ever at a steady pace; an outage leaves the last bundle in force."""
        while True:
            await asyncio.sleep(seconds)
            try:
                await self.refresh()
            except HedgerowError as error:
                log.warning("trust_refresh_failed", reason=error.reason, state=error.metadata.get("state", ""))

    async def watch(self) -> AsyncIterator[TrustBundle]:
        """Yield the current bundle at once, then each newer one.

        Raises:
            ResourceExhaustedError: too many are watching.
        """
        if self._watchers >= MAX_WATCHERS:
            raise ResourceExhaustedError(f"{MAX_WATCHERS} callers are watching; try again later", retry_after=5.0)
        self._watchers += 1
        seen: TrustBundle | None = None
        try:
            while True:
                async with self._changed:
                    while seen is not None and self._bundle.version <= seen.version:
                        await self._changed.wait()
                    seen = self._bundle
                yield seen
        finally:
            self._watchers -= 1
