"""The segment: a header frame and event frames, as they are hashed, signed and shipped. Pure.

`HRAUDIT1 | header frame | event frame | …`. The header is a msgpack array [service, instance, first sequence, chain
hash before the segment, roots of the tree before the segment]; its frame is chained like a record, so every byte of a
segment is covered. Sequences are gap-free from 1 within an instance, across its segments: they are the order, times
are not.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import msgpack

from libs.audit.event import AuditEvent, decode, encode
from libs.audit.hash_chain import (
    HASH_BYTES,
    ZERO_HASH,
    FrameError,
    frame,
    header_hash,
    leaf_hash,
    link,
    read_frame,
)
from libs.audit.merkle import Frontier

MAGIC = b"HRAUDIT1"
MAX_SEGMENT_BYTES = 3 * 1024 * 1024

_WORD = re.compile(r"[a-z0-9]{1,32}")


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Where a segment stands in the chain of its instance."""

    service: str
    instance: str
    first_sequence: int
    previous_hash: bytes = ZERO_HASH
    """The chain hash behind the event before; zeros for the first segment."""
    tree_roots: tuple[bytes, ...] = ()
    """The full subtrees over all events before."""

    @property
    def name(self) -> str:
        """The segment's id, which sorts by sequence within its instance."""
        return f"{self.service}-{self.instance}-{self.first_sequence:016d}"


@dataclass(slots=True)
class ChainState:
    """The end of a chain: what the next record is linked to."""

    next_sequence: int
    chain_hash: bytes
    tree: Frontier

    def copy(self) -> "ChainState":
        """An independent state, to try a commit on."""
        return ChainState(self.next_sequence, self.chain_hash, self.tree.copy())

    def header(self, service: str, instance: str) -> SegmentHeader:
        """The header of a segment that starts here."""
        return SegmentHeader(service, instance, self.next_sequence, self.chain_hash, self.tree.roots)

    def add_event(self, event: AuditEvent) -> bytes:
        """Links an event and returns its frame."""
        record = encode(event, self.next_sequence)
        self.add_record(record)
        return frame(record, self.chain_hash)

    def add_record(self, record: bytes) -> None:
        """Links a record as it is stored."""
        leaf = leaf_hash(record)
        self.chain_hash = link(self.chain_hash, leaf)
        self.tree.append(leaf)
        self.next_sequence += 1


def empty_state() -> ChainState:
    """The state before the first event of an instance."""
    return ChainState(next_sequence=1, chain_hash=ZERO_HASH, tree=Frontier())


def start_segment(header: SegmentHeader) -> tuple[bytes, ChainState]:
    """Returns (the segment's first bytes, the state to go on from)."""
    fields = [header.service, header.instance, header.first_sequence, header.previous_hash, list(header.tree_roots)]
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    chain_hash = link(header.previous_hash, header_hash(packed))
    state = ChainState(header.first_sequence, chain_hash, Frontier(header.first_sequence - 1, header.tree_roots))
    return MAGIC + frame(packed, chain_hash), state


class SegmentError(ValueError):
    """A segment does not verify from a record on."""

    def __init__(self, reason: str, sequence: int | None) -> None:
        """`sequence` is the first event that does not verify; None when the header does not."""
        super().__init__(reason)
        self.reason = reason
        self.sequence = sequence


class SegmentReader:
    """Reads and checks one segment, event by event."""

    def __init__(self, content: bytes) -> None:
        """Checks the header. Raises SegmentError."""
        self._content = content
        self.header, self._offset = _read_header(content)
        self.state = start_segment(self.header)[1]

    def __iter__(self) -> Iterator[tuple[int, AuditEvent, bytes]]:
        """Yields (sequence, event, chain hash behind it). Raises SegmentError at the first event that was changed."""
        state = self.state
        while self._offset < len(self._content):
            expected = state.next_sequence
            try:
                record, chain_hash, end = read_frame(self._content, self._offset)
                sequence, event = decode(record)
            except FrameError as error:
                raise SegmentError(str(error), expected) from error
            except ValueError as error:
                raise SegmentError("the record was changed: it is not an audit event", expected) from error
            state.add_record(record)
            if state.chain_hash != chain_hash:
                raise SegmentError("the hash chain breaks: a record was changed, removed or put in", expected)
            if sequence != expected:
                raise SegmentError(f"the record has sequence {sequence}", expected)
            self._offset = end
            yield sequence, event, chain_hash

    @property
    def verified_bytes(self) -> int:
        """Bytes up to the end of the last event read."""
        return self._offset


def _read_header(content: bytes) -> tuple[SegmentHeader, int]:
    if not content.startswith(MAGIC):
        raise SegmentError("the file is not an audit segment of this version", None)
    try:
        packed, chain_hash, end = read_frame(content, len(MAGIC))
        service, instance, first_sequence, previous_hash, roots = msgpack.unpackb(packed, use_list=False)
        header = SegmentHeader(service, instance, first_sequence, previous_hash, roots)
        well_formed = _well_formed(header)
        start = start_segment(header)[0] if well_formed else b""
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise SegmentError("the segment's header was changed", None) from error
    if start != content[:end] or chain_hash != start[-HASH_BYTES:]:
        raise SegmentError("the segment's header was changed", None)
    return header, end


def _well_formed(header: SegmentHeader) -> bool:
    words = (header.service, header.instance)
    hashes = (header.previous_hash, *header.tree_roots)
    return (
        all(isinstance(word, str) and _WORD.fullmatch(word) for word in words)
        and type(header.first_sequence) is int
        and header.first_sequence >= 1
        and all(isinstance(item, bytes) and len(item) == HASH_BYTES for item in hashes)
    )
