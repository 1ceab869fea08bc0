"""The features service's store on each engine: definitions come back, and an id never means two things."""

from __future__ import annotations

import pytest

from hedgerow.errors import AlreadyExistsError, NotFoundError
from services.features.records import MaterializationRecord, State, TrainingSetRecord
from services.features.store import FeaturesStore
from services.features.training_set import Cutoff
from services.features.view import Feature, define_service
from tests.conformance.stores.conftest import OpenMetadata
from tests.unit.features.samples import view

RECORD = TrainingSetRecord(
    training_set_id="set",
    service_id="s",
    cutoffs=(Cutoff(5, "datasets/statements", "bool_or(defaulted)", 0),),
    purposes=("credit_risk",),
    tags=("pii", "sensitive"),
    sources=("datasets/statements@3",),
    create_us=7,
)


@pytest.fixture
def store(metadata: OpenMetadata) -> FeaturesStore:
    return FeaturesStore(metadata("features"))


def test_views_and_services_come_back_as_they_were(store: FeaturesStore) -> None:
    first = view(Feature("f", "max(amount)", 3, "the most", 0.2), ttl_seconds=60)
    second = view("min(amount)", view_id="other")
    assert [store.add_view(first, 11), store.add_view(second, 12)] == [11, 12]
    assert store.view("behaviour") == (first, 11)
    assert store.view("behaviour")[0].schema_version == first.schema_version
    service = define_service("s", [second, first])
    assert store.add_service(service, 13) == 13
    assert store.service("s") == (service, 13)
    assert store.view_ids() == ["behaviour", "other"]


def test_the_same_definition_may_be_added_again_and_another_may_not(store: FeaturesStore) -> None:
    store.add_view(view("max(amount)"), 11)
    assert store.add_view(view("max(amount)"), 99) == 11
    with pytest.raises(AlreadyExistsError):
        store.add_view(view("min(amount)"), 99)
    store.add_view(view("min(amount)", view_id="other"), 11)
    store.add_service(define_service("s", [view("max(amount)")]), 12)
    with pytest.raises(AlreadyExistsError):
        store.add_service(define_service("s", [view("min(amount)", view_id="other")]), 12)


def test_listings_go_on_after_an_id(store: FeaturesStore) -> None:
    for name in ("c", "a", "b"):
        store.add_view(view("max(amount)", view_id=name), 1)
        store.add_service(define_service(f"s{name}", [view("max(amount)", view_id=name)]), 1)
    assert [each.view_id for each, _ in store.views("", 2)] == ["a", "b"]
    assert [each.view_id for each, _ in store.views("b", 2)] == ["c"]
    assert [each.service_id for each, _ in store.services("sa", 9)] == ["sb", "sc"]


def test_work_keeps_its_state(store: FeaturesStore) -> None:
    assert store.add_training_set(RECORD) is RECORD
    assert store.training_set("set") == RECORD
    store.update_training_set("set", state=State.SUCCEEDED, row_count=9, digest="d")
    done = store.training_set("set")
    assert (done.state, done.row_count, done.digest, done.cutoffs) == (State.SUCCEEDED, 9, "d", RECORD.cutoffs)
    written = MaterializationRecord("m", "s", 5)
    store.add_materialization(written)
    assert store.materialization("m") == written


def test_what_is_missing_is_named(store: FeaturesStore) -> None:
    for load, name in (
        (store.view, "featureViews/x"),
        (store.service, "featureServices/x"),
        (store.training_set, "trainingSets/x"),
        (store.materialization, "materializations/x"),
    ):
        with pytest.raises(NotFoundError) as caught:
            load("x")
        assert caught.value.metadata == {"resource": name}
