"""The canonical bytes of events."""

from hashlib import sha256
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.audit import AuditEvent
from libs.audit.event import MAX_EVENT_BYTES, decode, encode
from libs.audit.folding import Fold, fold_key
from tests.support.audit_trail import event

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
WHOLE = st.integers(-(2**63), 2**63 - 1)
EVENTS = st.builds(
    AuditEvent,
    actor=TEXT,
    on_behalf_of=TEXT,
    action=TEXT,
    resources=st.lists(TEXT, max_size=5).map(tuple),
    purpose=TEXT,
    decision=st.sampled_from(["permit", "deny"]),
    policies=st.lists(TEXT, max_size=5).map(tuple),
    code=TEXT,
    request_id=TEXT,
    event_time_ns=WHOLE,
    count=WHOLE,
    detail=st.dictionaries(TEXT, WHOLE, max_size=5),
    last_request_id=TEXT,
    request_ids_sha256=TEXT,
)


@given(EVENTS, st.integers(1, 2**62))
def test_events_round_trip(made: AuditEvent, sequence: int) -> None:
    record = encode(made, sequence)
    assert decode(record) == (sequence, made)
    assert encode(decode(record)[1], sequence) == record


def test_detail_is_encoded_in_one_order() -> None:
    one, other = event(detail={"a": 1, "b": 2}), event(detail={"b": 2, "a": 1})
    assert encode(one, 1) == encode(other, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"purpose": "\ud800"},
        {"actor": None},
        {"count": 2**70},
        {"count": "many"},
        {"detail": {"rows": 1.5}},
        {"detail": {1: 2}},
        {"resources": ("datasets/x", 7)},
        {"purpose": "x" * MAX_EVENT_BYTES},
        {"resources": tuple(f"datasets/{number}" for number in range(20_000))},
        {"policies": tuple("p" * 300 for _ in range(500))},
    ],
)
def test_what_cannot_be_stored_is_reduced_and_never_lost(changes: dict[str, Any]) -> None:
    record = encode(event(**changes), 7)
    sequence, stored = decode(record)
    assert sequence == 7
    assert stored.action == "ingestion.AppendRecords"
    assert len(record) <= MAX_EVENT_BYTES


def test_a_long_list_keeps_its_number_and_digest() -> None:
    stored = decode(encode(event(resources=tuple(f"datasets/{n:06d}" for n in range(20_000))), 1))[1]
    assert stored.resources[:2] == ("datasets/000000", "datasets/000001")
    assert len(stored.resources) == 9
    assert stored.resources[8].startswith("20000 in all, sha256:")


@given(st.binary(max_size=100))
def test_other_bytes_are_not_an_event(record: bytes) -> None:
    with pytest.raises(ValueError, match="not an audit event"):
        decode(record)


def test_an_event_with_a_field_missing_is_not_an_event() -> None:
    fields = msgpack.unpackb(encode(event(), 1))
    with pytest.raises(ValueError, match="not an audit event"):
        decode(msgpack.packb(fields[:-1]))


def test_folding_keeps_count_ids_and_sums() -> None:
    fold = Fold(event(1, detail={"rows": 2}))
    assert fold.event() == event(1, detail={"rows": 2})
    fold.add(event(2, detail={"rows": 3, "bytes": 5}))
    fold.add(event(3, detail={}))
    folded = fold.event()
    assert folded.count == 3
    assert folded.detail == {"rows": 5, "bytes": 5}
    assert (folded.request_id, folded.last_request_id) == (f"{1:032x}", f"{3:032x}")
    ids = "".join(f"{number:032x}\n" for number in (1, 2, 3))
    assert folded.request_ids_sha256 == sha256(ids.encode()).hexdigest()


@pytest.mark.parametrize("field", ["actor", "on_behalf_of", "action", "purpose", "decision", "code"])
def test_events_that_differ_are_not_folded(field: str) -> None:
    assert fold_key(event(1)) == fold_key(event(2))
    assert fold_key(event(1)) != fold_key(event(1, **{field: "other"}))
