"""The training service's store on each engine: runs, versions and aliases."""

from __future__ import annotations

import dataclasses

import pytest

from hedgerow.errors import AlreadyExistsError, NotFoundError
from services.training.records import EpochMetrics, RunState
from services.training.store import TrainingStore
from tests.conformance.stores.conftest import OpenMetadata
from tests.unit.training.rows import run, training_spec, version


@pytest.fixture
def store(metadata: OpenMetadata) -> TrainingStore:
    return TrainingStore(metadata("training"))


def test_a_run_from_start_to_end(store: TrainingStore) -> None:
    record = run("r1")
    assert store.add_run(record) == record
    assert store.run("r1") == record
    store.set_state("r1", RunState.TRAINING)
    for number in (1, 2):
        store.add_epoch("r1", EpochMetrics(number, 0.5, 0.4, 0.7))
    store.set_state("r1", RunState.SUCCEEDED, model_version="models/credit/versions/1", end_us=9)
    kept = store.run("r1")
    assert kept.state is RunState.SUCCEEDED
    assert [epoch.epoch for epoch in kept.epochs] == [1, 2]
    assert (kept.model_version, kept.end_us) == ("models/credit/versions/1", 9)


def test_a_run_that_has_ended_changes_no_more(store: TrainingStore) -> None:
    store.add_run(run("r1"))
    store.set_state("r1", RunState.CANCELLED, end_us=7)
    store.set_state("r1", RunState.GATING)
    assert store.run("r1").state is RunState.CANCELLED


def test_a_request_id_is_the_requesters_own(store: TrainingStore) -> None:
    store.add_run(run("r1", request_id="q"))
    assert store.add_run(run("r2", request_id="q")).run_id == "r1"
    with pytest.raises(AlreadyExistsError):
        store.add_run(run("r3", request_id="q", spec=training_spec(seed=8)))
    assert store.add_run(run("r4", request_id="q", requester="spiffe://x/user/ana")).run_id == "r4"


def test_runs_left_open_by_a_crash_are_closed(store: TrainingStore) -> None:
    for name in ("r1", "r2", "r3"):
        store.add_run(run(name))
    store.set_state("r2", RunState.GATING)
    store.set_state("r3", RunState.SUCCEEDED, end_us=3)
    assert store.fail_interrupted("interrupted", 11) == 2
    assert [(store.run(name).state, store.run(name).error) for name in ("r1", "r2", "r3")] == [
        (RunState.FAILED, "interrupted"),
        (RunState.FAILED, "interrupted"),
        (RunState.SUCCEEDED, ""),
    ]
    assert store.fail_interrupted("interrupted", 12) == 0


def test_runs_page_newest_first(store: TrainingStore) -> None:
    for name in ("r1", "r2", "r3"):
        store.add_run(run(name))
    page = store.runs(None, 2)
    assert [record.run_id for _, record in page] == ["r3", "r2"]
    assert [record.run_id for _, record in store.runs(page[-1][0], 2)] == ["r1"]


def test_version_numbers_are_never_given_twice(store: TrainingStore) -> None:
    assert [store.next_number("credit"), store.next_number("credit"), store.next_number("other")] == [1, 2, 1]
    assert store.models("", 10) == []
    store.add_version(version(2))
    assert [(model.model, model.latest) for model in store.models("", 10)] == [("credit", 2)]


def test_a_version_and_the_success_of_its_run_are_kept_by_one_write(store: TrainingStore) -> None:
    record = dataclasses.replace(version(1), training_run="trainingRuns/r1")
    for name in ("r1", "r2"):
        store.add_run(run(name))
    store.next_number("credit")
    store.add_version(record)
    kept = store.run("r1")
    assert (kept.state, kept.model_version, kept.end_us) == (RunState.SUCCEEDED, record.name, record.create_us)
    assert store.run("r2").state is RunState.QUEUED
    assert not store.set_state("r1", RunState.FAILED, error="late")
    assert store.run("r1") == kept
    assert store.set_state("r2", RunState.TRAINING)


def test_versions_by_number_and_alias(store: TrainingStore) -> None:
    for number in (1, 2):
        store.next_number("credit")
        store.add_version(version(number))
    store.point_alias("credit", "live", 1)
    assert store.version("credit", "live") == version(1)
    store.point_alias("credit", "live", 2)
    assert store.version("credit", "live") == version(2)
    assert (store.aliases_of("credit", 1), store.aliases_of("credit", 2)) == ([], ["live"])
    assert store.models("", 10)[0].aliases == {"live": 2}
    assert [record.number for record in store.versions("credit", None, 1)] == [2]
    assert [record.number for record in store.versions("credit", 2, 5)] == [1]
    for label in ("3", "01", "0", "none", "9" * 30):
        with pytest.raises(NotFoundError):
            store.version("credit", label)
    with pytest.raises(NotFoundError):
        store.versions("none", None, 1)
