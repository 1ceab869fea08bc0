"""The audit trail of the suite: gathers sealed segments, verifies them, and answers questions about them.

Rules for a segment to be taken over: it verifies by itself under its service's keys; the service itself sends it; it
claims no event that another segment holds; it continues the segment before it where that is held; and it contains the
head its writer reported, where it covers it. A gap is taken over and reported by each verification, because refusing
it would keep the events behind it out as well.

How ``seal_first`` is honoured: each writer reports its head every two seconds, and is told there to seal at once. A
verification waits until every live writer has reported after it began, and governance holds everything up to that report.

What is missing stays a fault of every verification until an operator accepts just those events as lost. Such an anchor
takes nothing else out of sight: events that are held go on being verified, and its own place in every report is fixed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from hedgerow.errors import (
    AlreadyExistsError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    PermissionDeniedError,
)
from libs.audit import (
    Anchor,
    AnchorKind,
    AuditBrokenError,
    AuditEvent,
    Fault,
    SealedSegment,
    StoredEvent,
    VerificationReport,
)
from libs.audit.anchor import MAX_REASON_CHARACTERS
from libs.audit.segment import MAX_SEGMENT_BYTES, SegmentReader
from libs.audit.verify import SegmentFaultError, TrailVerifier, VerifiedSegment, verify_segment
from libs.telemetry import get_logger
from services.governance.anchors import AnchorBook
from services.governance.changes import Changes
from services.governance.held_segment import HASH_BYTES, HeldSegment, Owner, ReportedHead
from services.governance.store import TrailStore
from services.governance.subject_search import SearchResult, SubjectSearch
from services.governance.vault import SegmentVault

LIVE_SECONDS = 10.0
"""A writer that did not report for so long is not waited for: it reports every two seconds."""

MAX_CHECKPOINT_CHARACTERS = 4096
log = get_logger()

_PAGE = 100
_SAVE_SECONDS = 30.0
_LOOK_SECONDS = 1.0


class Keys(Protocol):
    """Where the public keys of signingKeys/<service>-audit come from."""

    async def __call__(self, service: str, *, fresh: bool = False) -> Sequence[bytes]:
        """Return every version of a service's key; none when there is no such key.

        Args:
            service: the service.
            fresh: what is remembered did not do; ask again.
        """


class AuditTrail:
    """Everything governance knows of what happened. Belongs to one event loop."""

    def __init__(self, store: TrailStore, vault: SegmentVault, keys: Keys, anchors: AnchorBook) -> None:
        """Name the parts.

        Args:
            store: the index.
            vault: the segments.
            keys: of the services, to verify with.
            anchors: what is gone and accepted.
        """
        self._store = store
        self._vault = vault
        self._keys = keys
        self._anchors = anchors
        self.unchanging = asyncio.Lock()
        """Held while the trail is verified, and while retention removes segments from it."""
        self._changes = Changes()
        self._arrivals = asyncio.Lock()
        self._ends: dict[Owner, int] = {}
        self._heads: dict[Owner, ReportedHead] = {}
        self._saved_ns: dict[Owner, int] = {}
        self._waves: list[set[Owner]] = []

    async def start(self) -> None:
        """Load how far each chain is held and was reported."""
        self._ends = await asyncio.to_thread(self._store.ends)
        self._heads = {head.owner: head for head in await asyncio.to_thread(self._store.heads)}

    # ---- gathering

    async def put(self, service: str, name: str, content: bytes, checkpoint: str) -> int:
        """Take over a segment and return its number of events; a repetition changes nothing.

        Args:
            service: who sends it.
            name: the segment's id.
            content: its bytes.
            checkpoint: its signed note.

        Raises:
            InvalidArgumentError: it is too large.
            PermissionDeniedError: it is another service's.
            AuditBrokenError: it does not verify, or does not fit what is held or was reported.
            AlreadyExistsError: another segment of that name is held.
        """
        if len(content) > MAX_SEGMENT_BYTES or len(checkpoint) > MAX_CHECKPOINT_CHARACTERS:
            what = f"expected at most {MAX_SEGMENT_BYTES} bytes, and a checkpoint of {MAX_CHECKPOINT_CHARACTERS}"
            raise InvalidArgumentError(f"the segment is too large: {what}", fields={"content": what})
        if name.partition("-")[0] != service:
            raise PermissionDeniedError(f"{service} may only ship segments of its own", metadata={"segment": name})
        segment = SealedSegment(name, content, checkpoint)
        async with self._arrivals:
            try:
                held = await asyncio.to_thread(self._take_over, segment, {service: await self._keys(service)})
            except AuditBrokenError:
                # The key may be newer than the ones remembered; what is really broken stays so.
                keys = {service: await self._keys(service, fresh=True)}
                held = await asyncio.to_thread(self._take_over, segment, keys)
        self._ends[held.owner] = max(held.last_sequence, self._ends.get(held.owner, 0))
        self._changes.announce()
        return held.event_count

    def _take_over(self, segment: SealedSegment, keys: dict[str, Sequence[bytes]]) -> HeldSegment:
        digest = hashlib.sha256(segment.content).digest()
        held = self._store.segment(segment.name)
        if held is not None:
            if held.content_sha256 != digest:
                raise AlreadyExistsError(
                    f"another segment {segment.name} is held already", metadata={"segment": segment.name}
                )
            return held
        verified = _verified(segment, keys)
        fresh = HeldSegment(
            name=segment.name,
            owner=(verified.header.service, verified.header.instance),
            first_sequence=verified.header.first_sequence,
            last_sequence=verified.end.next_sequence - 1,
            chain_hash=verified.end.chain_hash,
            tree_roots=verified.end.tree.roots,
            content_sha256=digest,
        )
        self._check_fit(fresh, verified)
        events = self._events_with_head_checked(fresh, segment.content)
        self._vault.put(segment)
        self._store.add_segment(fresh, events)
        return fresh

    def _check_fit(self, fresh: HeldSegment, verified: VerifiedSegment) -> None:
        if fresh.event_count < 1:
            raise AuditBrokenError(fresh.name, None, "it holds no event")
        rival = self._store.overlapping(fresh)
        if rival is not None:
            raise AuditBrokenError(fresh.name, fresh.first_sequence, f"{rival.name} holds the same events")
        before = self._store.predecessor(fresh.owner, fresh.first_sequence)
        if before is None or before.last_sequence + 1 != fresh.first_sequence:
            return
        header = verified.header
        if (header.previous_hash, header.tree_roots) != (before.chain_hash, before.tree_roots):
            raise AuditBrokenError(fresh.name, fresh.first_sequence, f"it does not continue {before.name}")

    def _events_with_head_checked(self, fresh: HeldSegment, content: bytes) -> list[tuple[int, AuditEvent]]:
        head = self._heads.get(fresh.owner)
        events = []
        for sequence, event, chain_hash in SegmentReader(content):
            if head is not None and sequence == head.sequence and chain_hash != head.chain_hash:
                raise AuditBrokenError(fresh.name, sequence, "it is not the event that its writer reported durable")
            events.append((sequence, event))
        return events

    # ---- heads

    async def report(self, service: str, head: ReportedHead) -> bool:
        """Take up how far a chain is durable; return whether its writer is to seal and ship at once.

        Raises:
            InvalidArgumentError: the hash is malformed.
            PermissionDeniedError: it is another service's chain.
            AuditBrokenError: the chain is shorter than reported before.
        """
        if len(head.chain_hash) != HASH_BYTES or head.sequence < 0:
            what = f"expected {HASH_BYTES} bytes and a sequence of 0 or more"
            raise InvalidArgumentError(f"the head is malformed: {what}", fields={"chain_hash": what})
        if head.owner[0] != service:
            raise PermissionDeniedError(f"{service} may only report chains of its own")
        before = self._heads.get(head.owner)
        if before is not None and _contradicts(before, head):
            raise AuditBrokenError(
                "-".join(head.owner), head.sequence, f"its writer reported {before.sequence} events durable before"
            )
        self._heads[head.owner] = head
        new = before is None or before.sequence != head.sequence
        if new or head.report_ns - self._saved_ns.get(head.owner, 0) > _SAVE_SECONDS * 1e9:
            self._saved_ns[head.owner] = head.report_ns
            await asyncio.to_thread(self._store.save_head, head)
        self._changes.announce()
        wanted = any(head.owner in wave for wave in self._waves)
        return wanted and self._ends.get(head.owner, 0) < head.sequence

    async def gather(self, seconds: float) -> list[Fault]:
        """Wait until governance holds what every live writer had made durable when this began.

        Returns:
            A fault for each live writer that did not seal and ship in time.
        """
        began = time.time_ns()
        waiting = {owner for owner, head in self._heads.items() if began - head.report_ns < LIVE_SECONDS * 1e9}
        targets: dict[Owner, int] = {}
        self._waves.append(waiting)
        try:
            async with asyncio.timeout(seconds):
                while waiting:
                    changed = self._changes.next()
                    waiting -= {owner for owner in waiting if self._has_arrived(owner, began, targets)}
                    if waiting:
                        with contextlib.suppress(TimeoutError):  # silence makes no change: look again by the clock
                            await asyncio.wait_for(changed.wait(), _LOOK_SECONDS)
        except TimeoutError:
            log.warning("seal_wait_ended", writers=len(waiting))
        finally:
            self._waves = [wave for wave in self._waves if wave is not waiting]
        return [
            Fault("-".join(owner), None, f"the writer did not seal and ship its events within {seconds:.0f} s")
            for owner in sorted(waiting)
        ]

    def _has_arrived(self, owner: Owner, began: int, targets: dict[Owner, int]) -> bool:
        head = self._heads[owner]
        if _is_silent(head):  # it ended meanwhile; what it made durable and did not ship is a fault of the verification
            return True
        if owner not in targets and head.report_ns > began:
            targets[owner] = head.sequence
        return owner in targets and self._ends.get(owner, 0) >= targets[owner]

    # ---- questions

    async def verify(self, faults: Sequence[Fault] = ()) -> VerificationReport:
        """Verify everything held, and that nothing reported durable is missing. Cancellable between segments.

        Args:
            faults: found before, to be part of the report.
        """
        owners = set(self._ends) | set(self._heads)
        keys = {service: await self._keys(service, fresh=True) for service in {service for service, _ in owners}}
        async with self.unchanging:
            anchors, false_anchors = await self._anchors.load()
            verifier = TrailVerifier(keys, anchors)
            async for name in self._names():
                await asyncio.to_thread(self._verify_one, name, verifier)
        for owner, head in sorted(self._heads.items()):
            held = self._ends.get(owner, 0)
            if held < head.sequence and _is_silent(head) and not verifier.accepts_loss(owner, held + 1, head.sequence):
                reason = f"events {held + 1} to {head.sequence} were durable but never arrived; their writer is silent"
                verifier.add_fault(Fault("-".join(owner), held + 1, reason))
        for fault in (*false_anchors, *faults):
            verifier.add_fault(fault)
        return verifier.report()

    async def accept_loss(self, owner: Owner, sequence: int, *, actor: str, reason: str) -> Anchor:
        """Accept as lost what is missing of a chain behind an event, and return the anchor; repeatable.

        Args:
            owner: the chain.
            sequence: the last event before the missing ones; 0 for the start.
            actor: the SPIFFE ID of the operator.
            reason: in one line.

        Raises:
            InvalidArgumentError: the sequence or the reason is malformed.
            FailedPreconditionError: nothing is missing there, or it may still arrive.
            UnavailableError: the anchor cannot be signed.
        """
        if not 0 <= sequence < 2**62:
            raise InvalidArgumentError("sequence is out of range", fields={"sequence": "expected 0 or more"})
        if not reason.strip() or not reason.isprintable() or len(reason) > MAX_REASON_CHARACTERS:
            what = f"expected one line of 1 to {MAX_REASON_CHARACTERS} characters"
            raise InvalidArgumentError(f"reason is missing or malformed: {what}", fields={"reason": what})
        async with self._arrivals:
            anchors, _ = await self._anchors.load()
            mine = [item for item in anchors if item.owner == owner]
            last = await asyncio.to_thread(self._last_missing, owner, sequence, mine)
            for item in mine:
                if (item.kind, item.first) == (AnchorKind.LOST, sequence + 1) and item.last >= last:
                    return item
            anchor = Anchor(AnchorKind.LOST, *owner, sequence + 1, last, actor, time.time_ns(), reason)
            await self._anchors.keep(anchor)
        log.warning("audit_loss_accepted", chain="-".join(owner), first=anchor.first, last=anchor.last, actor=actor)
        return anchor

    async def anchor_notes(self) -> dict[str, str]:
        """Return the signed notes of the anchors by their id."""
        return await self._anchors.notes()

    def _last_missing(self, owner: Owner, sequence: int, anchors: Sequence[Anchor]) -> int:
        """Return the last of the events missing behind ``sequence``."""
        chain = "-".join(owner)
        before = self._store.predecessor(owner, sequence + 1)
        expired = max((item.last for item in anchors if item.kind is AnchorKind.EXPIRED), default=0)
        held = max(before.last_sequence if before else 0, expired)
        if held != sequence:
            what = f"what is held there ends with event {held}: that is the sequence to give, if events behind it miss"
            raise FailedPreconditionError(f"{chain}: {what}", metadata={"sequence": str(held)})
        after = self._store.successor(owner, sequence)
        if after is not None:
            if after.first_sequence > sequence + 1:
                return after.first_sequence - 1
            raise FailedPreconditionError(f"{chain}: no event is missing behind {sequence}")
        head = self._heads.get(owner)
        if head is None or head.sequence <= sequence:
            raise FailedPreconditionError(f"{chain}: no event is missing behind {sequence}")
        if not _is_silent(head):
            raise FailedPreconditionError(f"{chain}: its writer is alive, and what is missing may still arrive")
        return head.sequence

    def _verify_one(self, name: str, verifier: TrailVerifier) -> None:
        try:
            verifier.add(self._vault.get(name))
        except DataLossError as error:
            verifier.add_fault(Fault(name, None, error.message))

    async def export(self) -> AsyncIterator[SealedSegment]:
        """Yield every segment held, by service, instance and sequence.

        Raises:
            DataLossError: a stored segment was changed.
        """
        async for name in self._names():
            try:
                segment = await asyncio.to_thread(self._vault.get, name)
            except DataLossError:
                if await asyncio.to_thread(self._store.segment, name) is None:
                    continue  # retention removed it meanwhile
                raise
            yield segment

    async def events(
        self, position: tuple[int, int] | None, limit: int, *, actor: str, action: str, decision: str
    ) -> list[tuple[int, StoredEvent]]:
        """Return events, newest first, with their row ids; see ``TrailStore.events_before``."""
        return await asyncio.to_thread(
            self._store.events_before, position, limit, actor=actor, action=action, decision=decision
        )

    async def search(self, search: SubjectSearch) -> SearchResult:
        """Search the texts of every event held.

        Raises:
            DataLossError: a stored segment was changed.
        """
        objects = hits = 0
        async for segment in self.export():
            hits += await asyncio.to_thread(_count_in, segment, search)
            objects += 1
        return SearchResult(objects, hits)

    async def _names(self) -> AsyncIterator[str]:
        last = ""
        while names := await asyncio.to_thread(self._store.names_after, last, _PAGE):
            for name in names:
                yield name
            last = names[-1]


def _verified(segment: SealedSegment, keys: dict[str, Sequence[bytes]]) -> VerifiedSegment:
    try:
        return verify_segment(segment, keys)
    except SegmentFaultError as error:
        raise AuditBrokenError(segment.name, error.fault.sequence, error.fault.reason) from error


def _is_silent(head: ReportedHead) -> bool:
    return time.time_ns() - head.report_ns > LIVE_SECONDS * 1e9


def _contradicts(before: ReportedHead, head: ReportedHead) -> bool:
    if head.sequence == before.sequence:
        return head.chain_hash != before.chain_hash
    return head.sequence < before.sequence


def _count_in(segment: SealedSegment, search: SubjectSearch) -> int:
    return sum(search.count_texts(_texts(event)) for _, event, _ in SegmentReader(segment.content))


def _texts(event: AuditEvent) -> list[str]:
    single = (event.actor, event.on_behalf_of, event.action, event.purpose, event.code, event.request_id)
    return [*single, event.last_request_id, *event.resources, *event.policies, *event.detail]
