"""The secrets service's own certificate: it cannot enrol through itself, so it signs one with its Vault credential."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable

from hedgerow.identity import Identity, IdentityFolder, new_key_and_csr
from libs.telemetry import get_logger
from services.secrets.issuance import Issuance
from services.secrets.trust import TrustBundle

MARGIN = dt.timedelta(seconds=10)
log = get_logger()


class SelfIdentity:
    """Obtains and renews the identity of this process."""

    def __init__(
        self,
        issuance: Issuance,
        show: Callable[[TrustBundle], Awaitable[None]],
        now: Callable[[], dt.datetime],
    ) -> None:
        """Name the parts.

        Args:
            issuance: the use cases.
            show: learns of the bundle that came with a certificate.
            now: UTC.
        """
        self._issuance = issuance
        self._show = show
        self._now = now

    async def obtain(self, folder: IdentityFolder) -> Identity:
        """Return the stored identity while it is good, else a fresh one; raises the errors of ``Vault``."""
        stored = folder.load()
        if stored is not None and stored.expire_time - MARGIN > self._now():
            return stored
        identity = await self._issue()
        folder.save(identity)
        log.info("enrolled", spiffe_id=identity.spiffe_id, expire_time=identity.expire_time.isoformat())
        return identity

    async def renew(self, current: Identity) -> Identity:
        """Return a fresh identity; raises the errors of ``Vault``."""
        identity = await self._issue()
        log.info("renewed", expire_time=identity.expire_time.isoformat())
        return identity

    async def _issue(self) -> Identity:
        key_pem, csr_pem = new_key_and_csr()
        certificate, bundle = await asyncio.to_thread(self._issuance.issue_to_self, csr_pem)
        await self._show(bundle)
        return Identity(key_pem, certificate.chain_pem.encode(), bundle.roots_pem.encode())
