"""Sealed audit segments made in memory, for tests that change them."""

from collections.abc import Sequence
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from libs.audit import AuditEvent, SealedSegment
from libs.audit.checkpoint import Checkpoint, key_name, sign_note
from libs.audit.segment import ChainState, empty_state, start_segment

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC_KEY = KEY.public_key().public_bytes_raw()


def event(number: int = 0, **changes: Any) -> AuditEvent:
    """An event that differs by its number; `changes` replace fields."""
    made = AuditEvent(
        actor="spiffe://hedgerow.local/user/ana",
        on_behalf_of="",
        action="ingestion.AppendRecords",
        resources=("datasets/clients",),
        purpose="credit_risk",
        decision="permit",
        policies=("engineers-write",),
        code="OK",
        request_id=f"{number:032x}",
        event_time_ns=1_795_000_000_123_456_789 + number,
        detail={"rows": number},
    )
    return made._replace(**changes)


def seal(
    events: Sequence[AuditEvent],
    before: ChainState | None = None,
    *,
    service: str = "ingestion",
    instance: str = "0123456789ab",
    key: Ed25519PrivateKey = KEY,
) -> tuple[SealedSegment, ChainState]:
    """Returns a sealed segment behind `before` and the state behind it."""
    header = (before or empty_state()).header(service, instance)
    content, state = start_segment(header)
    content += b"".join(state.add_event(item) for item in events)
    return sign_segment(content, header.name, state, service=service, instance=instance, key=key), state


def sign_segment(
    content: bytes, name: str, state: ChainState, *, service: str, instance: str, key: Ed25519PrivateKey = KEY
) -> SealedSegment:
    """Returns content with a checkpoint that says what `state` says."""
    body = Checkpoint(service, instance, state.next_sequence - 1, state.tree.root(), name, state.chain_hash).body()
    note = sign_note(body, key_name(service), key.public_key().public_bytes_raw(), key.sign(body.encode()))
    return SealedSegment(name, content, note)


def trail(segments: int, events_each: int) -> list[SealedSegment]:
    """Returns consecutive sealed segments of one instance."""
    made: list[SealedSegment] = []
    state = empty_state()
    for number in range(segments):
        first = number * events_each
        segment, state = seal([event(first + offset) for offset in range(events_each)], state)
        made.append(segment)
    return made
