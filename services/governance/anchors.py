"""Keeps the anchors of the trail: what is gone from it and accepted, each signed by signingKeys/governance-anchors.

An anchor counts only while its signature verifies; one that does not is a fault of every verification and accepts
nothing. So whoever can write the database can neither make one up nor stretch one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from libs.audit import Anchor, Fault
from libs.audit.anchor import ANCHOR_KEY_NAME
from libs.audit.checkpoint import sign_note
from libs.audit.verify import open_anchors
from services.governance.policy import Sign
from services.governance.store import TrailStore

PublicKeys = Callable[[], Awaitable[Mapping[int, bytes]]]
"""() -> the public keys of signingKeys/governance-anchors by version."""


class AnchorBook:
    """The anchors of the suite."""

    def __init__(self, store: TrailStore, sign: Sign, public_keys: PublicKeys) -> None:
        """Name the parts.

        Args:
            store: keeps the notes.
            sign: by signingKeys/governance-anchors.
            public_keys: of that key; asked only when there is an anchor, for the key is made with the first.
        """
        self._store = store
        self._sign = sign
        self._public_keys = public_keys

    async def load(self) -> tuple[list[Anchor], list[Fault]]:
        """Return the anchors that verify, and a fault for each that does not. Raises UnavailableError."""
        notes = list((await asyncio.to_thread(self._store.anchors)).values())
        if not notes:
            return [], []
        keys = list((await self._public_keys()).values())
        return open_anchors(notes, keys)

    async def keep(self, anchor: Anchor) -> None:
        """Sign an anchor and keep it, in place of one of the same chain, kind and first event. Raises UnavailableError."""
        signature, version = await self._sign(anchor.body().encode())
        key = (await self._public_keys()).get(version, b"")
        note = sign_note(anchor.body(), ANCHOR_KEY_NAME, key, signature)
        await asyncio.to_thread(self._store.save_anchor, anchor.id, note)

    async def notes(self) -> dict[str, str]:
        """Return the signed notes by anchor id."""
        return await asyncio.to_thread(self._store.anchors)
