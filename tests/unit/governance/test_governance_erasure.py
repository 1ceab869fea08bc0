"""The state machine of an erasure request, and its receipt."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import FailedPreconditionError
from libs.lake.pseudonym import pseudonym
from services.governance.erasure import (
    ErasureRequest,
    State,
    StoreErasure,
    decode_stores,
    encode_stores,
    subject_hash,
)

COUNTS = st.integers(0, 2**62)
STORES = st.builds(
    StoreErasure,
    service=st.sampled_from(["ingestion", "features", "governance"]),
    store=st.text(max_size=20),
    objects_searched=COUNTS,
    objects_rewritten=COUNTS,
    objects_destroyed=COUNTS,
    rows_erased=COUNTS,
    remaining_hits=st.integers(0, 3),
    error=st.sampled_from(["", "UNAVAILABLE: away"]),
)


def running() -> ErasureRequest:
    return ErasureRequest("ab12", "1b4e28ba-2fa1-11d2-883f-0016d3cca427", "credit", "0" * 32, 1_000)


@given(st.lists(STORES, max_size=5))
def test_a_request_succeeds_only_when_every_store_is_clean(answers: list[StoreErasure]) -> None:
    request = running()
    for service in ("ingestion", "features", "governance"):
        request = request.reported(service, [item for item in answers if item.service == service])
    ended = request.ended(2_000)
    clean = bool(answers) and all(not item.error and not item.remaining_hits for item in answers)
    assert ended.state is (State.SUCCEEDED if clean else State.FAILED)
    assert (ended.end_ns, len(ended.stores)) == (2_000, len(answers))


@given(st.lists(STORES, max_size=5))
def test_store_answers_round_trip(answers: list[StoreErasure]) -> None:
    assert decode_stores(encode_stores(answers)) == tuple(answers)


def test_a_service_that_answers_again_replaces_its_answer() -> None:
    first = running().reported("ingestion", [StoreErasure("ingestion", "lake", remaining_hits=1)])
    again = first.reported("features", [StoreErasure("features", "onlineStore")]).reported(
        "ingestion", [StoreErasure("ingestion", "lake")]
    )
    assert [(item.service, item.remaining_hits) for item in again.stores] == [("features", 0), ("ingestion", 0)]


def test_the_receipt_says_what_was_done_without_the_subject() -> None:
    ended = running().reported("ingestion", [StoreErasure("ingestion", "lake", 5, 2, 1, 7)]).ended(2_000)
    assert json.loads(ended.receipt) == {
        "erasure_request": "erasureRequests/ab12",
        "domain": "credit",
        "subject_hash": "0" * 32,
        "state": "SUCCEEDED",
        "create_time_ns": 1_000,
        "end_time_ns": 2_000,
        "stores": [
            {
                "service": "ingestion",
                "store": "lake",
                "objects_searched": 5,
                "objects_rewritten": 2,
                "objects_destroyed": 1,
                "rows_erased": 7,
                "remaining_hits": 0,
                "error": "",
            }
        ],
    }
    assert ended.receipt == json.dumps(json.loads(ended.receipt), sort_keys=True, separators=(",", ":")).encode()


def test_only_a_failed_request_is_taken_up_again() -> None:
    ended = running().reported("ingestion", [StoreErasure("ingestion", "lake", error="X: y")]).ended(2_000)
    again = ended.signed(b"signature").retried()
    assert again == running()
    with pytest.raises(FailedPreconditionError):
        running().retried()
    with pytest.raises(FailedPreconditionError):
        ended.ended(3_000)
    with pytest.raises(FailedPreconditionError):
        ended.reported("ingestion", [])
    with pytest.raises(FailedPreconditionError):
        running().signed(b"signature")


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=50))
def test_the_subject_hash_is_the_pseudonym_of_the_lake(subject: str) -> None:
    key = bytes(range(32))
    assert subject_hash(key, subject) == pseudonym(key, subject)
