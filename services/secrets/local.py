"""What other services get from this one over gRPC, for this one itself: its keys, in process."""

from __future__ import annotations

import asyncio

from hedgerow.errors import PermissionDeniedError
from services.secrets.keys import KeyRing


class LocalSecrets:
    """``libs.runtime.Secrets`` on the key ring."""

    def __init__(self, keys: KeyRing) -> None:
        self._keys = keys

    async def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        """See ``libs.runtime.Secrets``."""
        return await asyncio.to_thread(self._keys.create_data_key, key)

    async def wrap(self, key: str, plaintext: bytes) -> bytes:
        """See ``libs.runtime.Secrets``."""
        return await asyncio.to_thread(self._keys.wrap, key, plaintext)

    async def unwrap(self, key: str, wrapped: bytes, grant: str = "") -> bytes:
        """See ``libs.runtime.Secrets``."""
        if grant:
            raise PermissionDeniedError("the secrets service uses no grants", reason="GRANT_INVALID")
        return await asyncio.to_thread(self._keys.unwrap, key, wrapped)

    async def pseudonym_key(self, domain: str) -> bytes:
        """See ``libs.runtime.Secrets``."""
        return await asyncio.to_thread(self._keys.pseudonym_key, f"pseudonymKeys/{domain}")

    async def sign(self, key: str, payload: bytes) -> tuple[bytes, int]:
        """See ``libs.runtime.Secrets``."""
        return await asyncio.to_thread(self._keys.sign, key, payload)

    async def verification_keys(self, key: str) -> dict[int, bytes]:
        """See ``libs.runtime.Secrets``."""
        return await asyncio.to_thread(self._keys.verification_keys, key)
