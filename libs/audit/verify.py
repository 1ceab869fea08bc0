"""Verifies sealed segments, offline: hash chains, Merkle roots, checkpoint signatures and the order of segments.

A fault names the segment and, where it can be told, the first event that does not verify. The rules:

1. A segment's header and records are as they were hashed, and their sequences are gap-free.
2. Its checkpoint is signed by a key of the service that the segment names, and states the segment's end: number of
   events, Merkle root and chain hash.
3. The segments of an instance follow one another from event 1: no gap, no overlap, and each starts with the chain hash
   and the tree of the one before.
4. A gap is no fault where a signed anchor accepts every event of it as lost, nor are missing events at a chain's start
   where an anchor says that retention removed them and the rest continues it. The report lists the anchors.
"""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from libs.audit.anchor import ANCHOR_KEYS, Anchor, AnchorKind, open_anchor
from libs.audit.checkpoint import Checkpoint, CheckpointError, open_checkpoint
from libs.audit.merkle import Frontier
from libs.audit.segment import ChainState, SegmentError, SegmentHeader, SegmentReader, empty_state

ServiceKeys = Mapping[str, Sequence[bytes]]
"""Service id to the 32-byte ed25519 public keys of its signingKeys/<service>-audit, all versions."""


class SealedSegment(NamedTuple):
    """A segment as it is shipped."""

    name: str
    """The segment's id, with or without `auditSegments/` before it."""
    content: bytes
    checkpoint: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that does not verify."""

    segment: str
    sequence: int | None
    """The first event that does not verify; None when the fault is not at one event."""
    reason: str

    def __str__(self) -> str:
        """In words."""
        place = "" if self.sequence is None else f", event {self.sequence}"
        return f"{self.segment}{place}: {self.reason}"


@dataclass(frozen=True, slots=True)
class VerificationReport:
    """What was checked, and what does not verify."""

    verified: bool
    segment_count: int
    event_count: int
    """Events that verify."""
    faults: tuple[Fault, ...]
    anchors: tuple[Anchor, ...] = ()
    """What is gone and accepted."""


class VerifiedSegment(NamedTuple):
    """A segment that verifies by itself."""

    header: SegmentHeader
    end: ChainState
    event_count: int


class SegmentFaultError(ValueError):
    """A segment does not verify by itself."""

    def __init__(self, fault: Fault, event_count: int) -> None:
        super().__init__(str(fault))
        self.fault = fault
        self.event_count = event_count
        """Events before the fault."""


def verify_segment(segment: SealedSegment, keys: ServiceKeys) -> VerifiedSegment:
    """Checks rules 1 and 2. Raises SegmentFaultError."""
    name = _id(segment.name)
    count = 0
    try:
        reader = SegmentReader(segment.content)
        for _ in reader:
            count += 1
        header, end = reader.header, reader.state
        if header.name != name:
            raise SegmentError(f"the content is that of segment {header.name}", None)
        checkpoint = open_checkpoint(segment.checkpoint, header.service, keys.get(header.service, ()))
        _compare(checkpoint, header, end)
    except SegmentError as error:
        raise SegmentFaultError(Fault(name, error.sequence, error.reason), count) from error
    except CheckpointError as error:
        raise SegmentFaultError(Fault(name, None, str(error)), count) from error
    return VerifiedSegment(header, end, count)


class TrailVerifier:
    """Verifies a trail segment by segment, in any number; memory grows with the number of instances only.

    Segments of an instance must come in order of their names.
    """

    def __init__(self, keys: ServiceKeys, anchors: Sequence[Anchor] = ()) -> None:
        """`keys` are the public keys by service; `anchors` are opened already, so their signatures are checked."""
        self._keys = keys
        self._anchors = tuple(anchors)
        self._ends: dict[tuple[str, str], ChainState | None] = {}
        self._segments = 0
        self._events = 0
        self._faults: list[Fault] = []

    def add(self, segment: SealedSegment) -> None:
        """Checks one segment, and that it follows the one before."""
        self._segments += 1
        try:
            verified = verify_segment(segment, self._keys)
        except SegmentFaultError as error:
            self._events += error.event_count
            self._faults.append(error.fault)
            self._ends[_owner(_id(segment.name))] = None
            return
        self._events += verified.event_count
        owner = (verified.header.service, verified.header.instance)
        before = self._ends[owner] if owner in self._ends else self._start(owner, verified.header.first_sequence)
        self._ends[owner] = verified.end
        # Behind a broken segment there is nothing to compare with; the break itself is a fault already.
        if before is None or self.accepts_loss(owner, before.next_sequence, verified.header.first_sequence - 1):
            return
        fault = successor_fault(before, verified.header)
        if fault is not None:
            self._faults.append(fault)

    def accepts_loss(self, owner: tuple[str, str], first: int, last: int) -> bool:
        """Whether one anchor accepts all these events, at least one, as lost."""
        lost = (item for item in self._anchors if item.owner == owner and item.kind is AnchorKind.LOST)
        return first <= last and any(item.first <= first and last <= item.last for item in lost)

    def end(self, owner: tuple[str, str]) -> ChainState | None:
        """The end of what was checked of a chain; None behind a broken segment."""
        return self._ends.get(owner)

    def _start(self, owner: tuple[str, str], first: int) -> ChainState | None:
        """What a chain's first segment at hand must continue; None when it is itself among what retention removes."""
        expired = [item for item in self._anchors if item.owner == owner and item.kind is AnchorKind.EXPIRED]
        if not expired or first == 1:
            return empty_state()
        last = max(expired, key=lambda item: item.last)
        if first <= last.last:
            return None
        return ChainState(last.last + 1, last.chain_hash, Frontier(last.last, last.tree_roots))

    def add_fault(self, fault: Fault) -> None:
        """Takes up a fault that was found elsewhere, such as a segment that cannot be read."""
        self._faults.append(fault)
        self._ends[_owner(fault.segment)] = None

    def report(self) -> VerificationReport:
        """The outcome so far."""
        return VerificationReport(not self._faults, self._segments, self._events, tuple(self._faults), self._anchors)


def successor_fault(before: ChainState, header: SegmentHeader) -> Fault | None:
    """Checks rule 3: what is wrong with a segment behind the given end of its instance's chain, or None."""
    expected = before.next_sequence
    if header.first_sequence > expected:
        return Fault(header.name, expected, f"events {expected} to {header.first_sequence - 1} before it are missing")
    if header.first_sequence < expected:
        return Fault(header.name, header.first_sequence, "the segment overlaps the one before: the chain was forked")
    if header.previous_hash != before.chain_hash or header.tree_roots != before.tree.roots:
        return Fault(header.name, expected, "the segment does not continue the one before: the chain was forked")
    return None


def verify_segments(
    segments: Iterable[SealedSegment], keys: ServiceKeys, anchor_notes: Iterable[str] = ()
) -> VerificationReport:
    """Verifies whole trails of any number of services; `keys` may hold those of anchors as `governance-anchors`."""
    anchors, faults = open_anchors(anchor_notes, keys.get(ANCHOR_KEYS, ()))
    verifier = TrailVerifier(keys, anchors)
    for segment in sorted(segments, key=lambda item: _id(item.name)):
        verifier.add(segment)
    for fault in faults:
        verifier.add_fault(fault)
    return verifier.report()


def open_anchors(notes: Iterable[str], public_keys: Sequence[bytes]) -> tuple[list[Anchor], list[Fault]]:
    """Returns the anchors that are signed, and a fault for each that is not: it then accepts nothing."""
    anchors, faults = [], []
    for note in notes:
        try:
            anchors.append(open_anchor(note, public_keys))
        except CheckpointError as error:
            faults.append(Fault("anchor", None, f"{error}; it accepts nothing"))
    return anchors, faults


def read_directory(directory: Path) -> list[SealedSegment]:
    """Reads an exported trail: `<segment>.segment` files, each with `<segment>.checkpoint`. Raises OSError."""
    segments = []
    for path in sorted(directory.glob("*.segment")):
        checkpoint = path.with_suffix(".checkpoint")
        note = checkpoint.read_text("utf-8", errors="replace") if checkpoint.exists() else ""
        segments.append(SealedSegment(path.stem, path.read_bytes(), note))
    return segments


def read_anchors(directory: Path) -> list[str]:
    """Reads the notes of an exported trail's anchors: `.anchor` files. Raises OSError."""
    return [path.read_text("utf-8", errors="replace") for path in sorted(directory.glob("*.anchor"))]


def write_segment(directory: Path, segment: SealedSegment) -> None:
    """Writes one segment of an export, as `read_directory` reads it. Raises OSError."""
    name = _id(segment.name)
    (directory / f"{name}.segment").write_bytes(segment.content)
    (directory / f"{name}.checkpoint").write_text(segment.checkpoint, "utf-8")


def parse_keys(text: str) -> dict[str, list[bytes]]:
    """Reads a keys file: a JSON object from service to a list of base64 public keys. Raises ValueError."""
    document = json.loads(text)
    try:
        return {service: [base64.b64decode(key, validate=True) for key in keys] for service, keys in document.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError('the keys file must be JSON such as {"ingestion": ["<base64 public key>"]}') from error


def _compare(checkpoint: Checkpoint, header: SegmentHeader, end: ChainState) -> None:
    if (checkpoint.segment, checkpoint.instance) != (header.name, header.instance):
        raise CheckpointError(f"the checkpoint is that of segment {checkpoint.segment}")
    size = end.next_sequence - 1
    if checkpoint.size != size:
        raise SegmentError(
            f"the segment ends with event {size}, its checkpoint says {checkpoint.size}", min(size, checkpoint.size) + 1
        )
    if checkpoint.root != end.tree.root() or checkpoint.chain_hash != end.chain_hash:
        raise CheckpointError("the events are not those of the checkpoint: the segment was rewritten")


def _id(name: str) -> str:
    return name.removeprefix("auditSegments/")


def _owner(segment: str) -> tuple[str, str]:
    service, _, rest = segment.partition("-")
    return service, rest.partition("-")[0]
