"""Whether a caller holds a grant for a key."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable

from hedgerow.errors import NotFoundError, PermissionDeniedError
from libs.identity.grants import claimed_owner, signing_key, verify_grant
from services.secrets.keys import KeyRing

CACHE_SECONDS = 60.0
REFETCH_SECONDS = 1.0


class GrantJudge:
    """Verifies grants with the public keys of their owners, which it keeps for a minute."""

    def __init__(
        self,
        keys: KeyRing,
        owners: frozenset[str],
        *,
        now: Callable[[], dt.datetime],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name the parts.

        Args:
            keys: where the public keys come from.
            owners: the services that can own keys; bounds what is kept.
            now: UTC.
            clock: seconds, monotonic.
        """
        self._keys = keys
        self._owners = owners
        self._now = now
        self._clock = clock
        self._kept: dict[str, tuple[float, dict[int, bytes]]] = {}

    async def require(self, grant: str, *, key: str, principal: str) -> None:
        """Check that a grant covers a key for a principal.

        Raises:
            PermissionDeniedError: it does not, and why (GRANT_INVALID).
        """
        owner = claimed_owner(grant)
        if owner not in self._owners:
            raise PermissionDeniedError("the grant is not from a service of the suite", reason="GRANT_INVALID")
        public_keys = await self._public_keys(owner, CACHE_SECONDS)
        version = grant.split(".")[1]
        if int(version) not in public_keys:
            # The owner may have rotated its key since.
            public_keys = await self._public_keys(owner, REFETCH_SECONDS)
        verify_grant(public_keys, grant, self._now()).require(key, principal)

    async def _public_keys(self, owner: str, max_age: float) -> dict[int, bytes]:
        kept = self._kept.get(owner)
        if kept is not None and self._clock() - kept[0] < max_age:
            return kept[1]
        try:
            public_keys = await asyncio.to_thread(self._keys.verification_keys, signing_key(owner))
        except NotFoundError:
            # It never made a grant. Kept as well, so that made-up grants do not reach the secret server each time.
            public_keys = {}
        self._kept[owner] = (self._clock(), public_keys)
        return public_keys
