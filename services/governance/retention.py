"""Removes segments from the trail that are older than its retention, so that it does not grow without end.

Rules: a segment goes only whole, only from the start of its chain, and only when its newest event and its arrival are
both older than the retention, so that a writer's false clock removes nothing early. It and what is before it must verify:
what is broken stays, as evidence. The last segment of a chain stays, for the next to continue. Nothing goes before a
signed anchor says what goes and how what remains continues it; an interrupted removal is taken up by the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from hedgerow.errors import DataLossError, HedgerowError
from libs.audit import Anchor, AnchorKind, SealedSegment
from libs.audit.checkpoint import CheckpointError
from libs.audit.segment import ChainState, SegmentReader
from libs.audit.verify import TrailVerifier
from libs.telemetry import get_logger
from services.governance.anchors import AnchorBook
from services.governance.held_segment import Owner
from services.governance.store import TrailStore
from services.governance.trail import Keys
from services.governance.vault import SegmentVault

DAY_SECONDS = 24 * 3600
MAX_SEGMENTS = 1000
"""Of a chain, in one round."""
log = get_logger()


class Retention:
    """The retention of one trail."""

    def __init__(
        self, store: TrailStore, vault: SegmentVault, keys: Keys, anchors: AnchorBook, unchanging: asyncio.Lock,
        *, days: int, actor: str,
    ) -> None:  # fmt: skip
        """Name the parts, which are those of the trail; ``actor`` is governance itself."""
        self._store = store
        self._vault = vault
        self._keys = keys
        self._anchors = anchors
        self._unchanging = unchanging
        self._days = days
        self._actor = actor

    async def run(self) -> None:
        """Look once a day, for ever. A round that fails is logged, and the next takes it up."""
        while True:
            try:
                removed = await self.expire(time.time_ns())
                if removed:
                    log.info("audit_segments_expired", segments=removed)
            except (HedgerowError, CheckpointError, OSError) as error:
                log.warning("audit_retention_failed", reason=getattr(error, "reason", type(error).__name__))
            await asyncio.sleep(DAY_SECONDS)

    async def expire(self, now_ns: int) -> int:
        """Remove what is too old at a time and return the number of segments. Raises UnavailableError, OSError."""
        removed = 0
        for owner in sorted(await asyncio.to_thread(self._store.ends)):
            keys = await self._keys(owner[0], fresh=True)
            async with self._unchanging:
                anchors, _ = await self._anchors.load()
                cutoff_ns = now_ns - self._days * DAY_SECONDS * 10**9
                verifier = TrailVerifier({owner[0]: keys}, anchors)
                old, end = await asyncio.to_thread(self._old, owner, cutoff_ns, verifier)
                if end is not None:
                    await self._anchors.keep(self._anchor(owner, end, now_ns))
                    await asyncio.to_thread(self._remove, owner, old)
                gone = [item.last for item in anchors if (item.kind, item.owner) == (AnchorKind.EXPIRED, owner)]
                await asyncio.to_thread(self._sweep, owner, max(gone, default=0))
                removed += len(old)
        return removed

    def _anchor(self, owner: Owner, end: ChainState, now_ns: int) -> Anchor:
        reason, gone = f"the retention of {self._days} days", end.next_sequence - 1
        place = (AnchorKind.EXPIRED, *owner, 1, gone)
        return Anchor(*place, self._actor, now_ns, reason, end.chain_hash, end.tree.roots)

    def _old(self, owner: Owner, cutoff_ns: int, verifier: TrailVerifier) -> tuple[list[str], ChainState | None]:
        """Return the segments that may go, and the end of the chain behind them; None when there are none."""
        old: list[str] = []
        end: ChainState | None = None
        for name in self._store.names_of(owner, MAX_SEGMENTS)[:-1]:
            try:
                segment = self._vault.get(name)
            except DataLossError:
                break
            verifier.add(segment)
            if not verifier.report().verified or max(_newest(segment), self._vault.arrival_ns(name)) >= cutoff_ns:
                break
            old.append(name)
            end = verifier.end(owner)
        return old, end

    def _remove(self, owner: Owner, names: Sequence[str]) -> None:
        for name in names:
            segment = self._vault.get(name)
            events = [(sequence, event) for sequence, event, _ in SegmentReader(segment.content)]
            self._store.remove_segment(name, owner, events)
            self._vault.remove(name)

    def _sweep(self, owner: Owner, gone: int) -> None:
        """Remove files up to an event that an interrupted removal took out of the index already."""
        for name in self._vault.names("-".join(owner)):
            if int(name.rpartition("-")[2]) <= gone and self._store.segment(name) is None:
                self._vault.remove(name)


def _newest(segment: SealedSegment) -> int:
    return max(event.event_time_ns for _, event, _ in SegmentReader(segment.content))
