"""What governance remembers of a segment it holds, and of how far a chain was reported durable. Pure."""

from __future__ import annotations

import time
from dataclasses import dataclass

Owner = tuple[str, str]
"""(service, instance): one chain."""

HASH_BYTES = 32


@dataclass(frozen=True, slots=True)
class HeldSegment:
    """A segment in the vault.

    Attributes:
        name: the segment's id.
        owner: its chain.
        first_sequence: its first event.
        last_sequence: its last event.
        chain_hash: behind the last event.
        tree_roots: full subtrees of the chain's tree behind the last event.
        content_sha256: of the segment's bytes.
    """

    name: str
    owner: Owner
    first_sequence: int
    last_sequence: int
    chain_hash: bytes
    tree_roots: tuple[bytes, ...]
    content_sha256: bytes

    @property
    def event_count(self) -> int:
        """Number of events."""
        return self.last_sequence - self.first_sequence + 1


@dataclass(frozen=True, slots=True)
class ReportedHead:
    """How far a writer said its chain is durable.

    Attributes:
        owner: the chain.
        sequence: the last durable event, 0 before the first.
        chain_hash: behind that event.
        report_ns: when, nanoseconds since 1970.
    """

    owner: Owner
    sequence: int
    chain_hash: bytes
    report_ns: int

    @classmethod
    def now(cls, owner: Owner, sequence: int, chain_hash: bytes) -> ReportedHead:
        """Return a head that is reported just now."""
        return cls(owner, sequence, chain_hash, time.time_ns())
