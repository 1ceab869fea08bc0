"""The governance service's stores on each engine: policies, the index of the trail, erasure requests."""

from __future__ import annotations

import dataclasses

import pytest

from hedgerow.errors import AlreadyExistsError, NotFoundError
from libs.sql import Database
from services.governance.bundle import PolicyBundle
from services.governance.erasure import ErasureRequest, State, StoreErasure
from services.governance.held_segment import HeldSegment, ReportedHead
from services.governance.store import ErasureStore, PolicyStore, TrailStore
from tests.conformance.stores.conftest import OpenMetadata
from tests.support.audit_trail import event

BUNDLE = PolicyBundle(1, b"\x00{}\xff", b"signature", 2, 1_795_000_000_123_456_789)
OWNER = ("ingestion", "i" * 32)
REQUEST = ErasureRequest("e" * 32, "00000000-0000-4000-8000-000000000001", "credit", "f" * 32, 7)


@pytest.fixture
def database(metadata: OpenMetadata) -> Database:
    return metadata("governance")


def segment(first: int, last: int, owner: tuple[str, str] = OWNER) -> HeldSegment:
    name = f"{owner[0]}-{owner[1]}-{first:020d}"
    return HeldSegment(name, owner, first, last, bytes(32), (b"a" * 32, b"b" * 32), b"c" * 32)


def test_the_latest_bundle_is_the_highest_version_and_none_is_replaced(database: Database) -> None:
    store = PolicyStore(database)
    assert store.latest() is None
    for version in (1, 3, 2):
        store.add(dataclasses.replace(BUNDLE, version=version))
    with pytest.raises(AlreadyExistsError):
        store.add(BUNDLE)
    assert store.latest() == dataclasses.replace(BUNDLE, version=3)


def test_segments_are_found_by_name_neighbour_and_overlap(database: Database) -> None:
    store = TrailStore(database)
    first, second = segment(1, 10), segment(11, 15)
    for held in (second, first):
        store.add_segment(held, [(held.first_sequence, event(held.first_sequence))])
    assert store.segment(first.name) == first
    assert store.segment("none") is None
    assert store.predecessor(OWNER, 11) == first
    assert store.predecessor(OWNER, 1) is None
    assert store.successor(OWNER, 1) == second
    assert store.overlapping(segment(15, 20)) == second
    assert store.overlapping(segment(16, 20)) is None
    assert store.names_after("", 1) == store.names_of(OWNER, 1) == [first.name]
    assert store.names_after(first.name, 9) == [second.name]
    assert store.ends() == {OWNER: 15}


def test_events_page_newest_first_and_go_with_their_segment(database: Database) -> None:
    store = TrailStore(database)
    events = [
        (number, event(number, decision="deny" if number == 2 else "permit", event_time_ns=5)) for number in (1, 2, 3)
    ]
    store.add_segment(segment(1, 3), events)
    wanted = {"actor": "", "action": "", "decision": ""}
    page = store.events_before(None, 2, **wanted)
    assert [stored.sequence for _, stored in page] == [3, 2]
    row, _ = page[-1]
    assert [stored.event for _, stored in store.events_before((5, row), 9, **wanted)] == [events[0][1]]
    assert [stored.sequence for _, stored in store.events_before(None, 9, **{**wanted, "decision": "deny"})] == [2]
    store.remove_segment(segment(1, 3).name, OWNER, events)
    assert store.events_before(None, 9, **wanted) == []
    assert store.ends() == {}


def test_heads_and_anchors_take_the_place_of_those_before(database: Database) -> None:
    store = TrailStore(database)
    for sequence in (3, 9):
        store.save_head(ReportedHead(OWNER, sequence, bytes([sequence] * 32), 2**60))
    assert store.heads() == [ReportedHead(OWNER, 9, bytes([9] * 32), 2**60)]
    for note in ("first\n", "— second\n"):
        store.save_anchor("b", note)
    store.save_anchor("a", "other")
    assert list(store.anchors().items()) == [("a", "other"), ("b", "— second\n")]


def test_an_erasure_request_is_one_per_request_id(database: Database) -> None:
    store = ErasureStore(database)
    assert store.add(REQUEST) == REQUEST
    assert store.add(dataclasses.replace(REQUEST, id="other")) == REQUEST
    done = dataclasses.replace(
        REQUEST,
        state=State.SUCCEEDED,
        stores=(StoreErasure("ingestion", "lake", rows_erased=2**40),),
        end_ns=2**60,
        receipt=b"\x00receipt",
        signature=b"\xff",
    )
    assert store.running() == [REQUEST]
    store.save(done)
    assert store.get(REQUEST.id) == done
    assert store.running() == []
    with pytest.raises(NotFoundError):
        store.get("none")


def test_erasure_requests_page_newest_first(database: Database) -> None:
    store = ErasureStore(database)
    requests = [
        dataclasses.replace(REQUEST, id=f"{number:032x}", request_id=f"{number:036x}", create_ns=9 + number // 2)
        for number in range(4)
    ]
    for request in requests:
        store.add(request)
    page = store.page_before(None, 3)
    assert page == requests[:0:-1]
    assert store.page_before((page[-1].create_ns, page[-1].id), 9) == requests[:1]
