"""A subject leaves every dataset of its domain: lake and quarantine, and the counts say what was done."""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hedgerow.errors import CallCancelledError, FailedPreconditionError, InvalidArgumentError, UnavailableError
from services.ingestion.append import Appending, AppendLimits, ByteBudget
from services.ingestion.catalog import Catalog
from services.ingestion.dataset import SealedRow
from services.ingestion.erasure import check_subject, erase_subject
from services.ingestion.store import IngestionStore
from tests.unit.ingestion.ingestion_fixtures import (
    CONTRACT,
    Keys,
    changed,
    ipc,
    open_catalog,
    open_store,
    read,
    subject,
    table_of,
)

RECEIPT = "erasureRequests/e1"


@pytest.fixture
def catalog(tmp_path: Path) -> Iterator[Catalog]:
    database, store = open_store(tmp_path)
    made = open_catalog(tmp_path, store, Keys())
    made.create("clients", CONTRACT)
    made.create("statements", changed(description="another"))
    made.create("elsewhere", changed(pseudonym_domain="health"))
    yield made
    database.close()


def append(catalog: Catalog, dataset_id: str, table: pa.Table) -> None:
    opened = catalog.open(dataset_id)
    with Appending(catalog, opened, str(uuid.uuid4()), limits=AppendLimits(), budget=ByteBudget(1 << 30)) as appending:
        appending.add(ipc(table))
        appending.commit()


def go_on() -> None:
    return


def test_the_subject_leaves_lake_and_quarantine_of_its_domain_alone(catalog: Catalog) -> None:
    bad = pa.array([1, -1, -1], pa.int64())
    for dataset_id in ("clients", "statements", "elsewhere"):
        append(catalog, dataset_id, table_of("anna", "anna", "bert", limit=bad))
        append(catalog, dataset_id, table_of("bert"))

    lake, quarantine = erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)

    assert asdict(lake) == {
        "store": "lake",
        "objects_searched": lake.objects_searched,
        "objects_rewritten": 2,
        "objects_destroyed": 2,
        "rows_erased": 2,
        "remaining_hits": 0,
        "error": "",
    }
    assert lake.objects_searched >= 8
    assert asdict(quarantine) == {
        "store": "quarantine",
        "objects_searched": 2,
        "objects_rewritten": 0,
        "objects_destroyed": 2,
        "rows_erased": 2,
        "remaining_hits": 0,
        "error": "",
    }
    for dataset_id in ("clients", "statements"):
        opened = catalog.open(dataset_id)
        assert read(opened, keys_of(catalog), "client_id").column(0).to_pylist() == [subject("bert")]
        assert catalog.store.quarantined_count(dataset_id) == 1
        with pytest.raises(FailedPreconditionError) as caught:
            opened.table.snapshot(1)
        assert caught.value.metadata == {"receipt": RECEIPT}
    other = read(catalog.open("elsewhere"), keys_of(catalog), "client_id").column(0).to_pylist()
    assert sorted(other) == sorted([subject("anna", "health"), subject("bert", "health")])
    assert catalog.store.quarantined_count("elsewhere") == 2


def keys_of(catalog: Catalog) -> Keys:
    return catalog._keys  # type: ignore[return-value]


def test_an_append_under_way_does_not_bring_the_subject_back(catalog: Catalog) -> None:
    """Its rows were sent before the erasure and are committed after it, those for quarantine among them."""
    opened = catalog.open("clients")
    request_id, limits = str(uuid.uuid4()), AppendLimits()
    rows = table_of("anna", "bert", "anna", "bert", limit=pa.array([1, 1, -1, -1], pa.int64()))
    with Appending(catalog, opened, request_id, limits=limits, budget=ByteBudget(1 << 30)) as appending:
        appending.add(ipc(rows))
        erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)
        done = appending.commit()
    assert (done.row_count, done.quarantined_row_count) == (1, 1)
    again = erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)
    assert [(store.rows_erased, store.remaining_hits) for store in again] == [(0, 0), (0, 0)]
    # What is sent after the erasure is new data.
    append(catalog, "clients", table_of("anna"))
    assert erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)[0].rows_erased == 1


def test_appends_go_on_while_the_subject_is_looked_for(catalog: Catalog) -> None:
    """One that had begun leaves the subject out or is found; nothing of what it brought is left, nor counted as left."""
    for _ in range(3):
        append(catalog, "clients", table_of("anna", "bert"))
    opened = catalog.open("clients")
    request_id, limits, calls = str(uuid.uuid4()), AppendLimits(), 0
    rows = table_of("anna", "carl", "anna", limit=pa.array([1, 1, -1], pa.int64()))
    with Appending(catalog, opened, request_id, limits=limits, budget=ByteBudget(1 << 30)) as begun:
        begun.add(ipc(rows))

        def look_on() -> None:
            nonlocal calls
            calls += 1
            if calls == 2:  # the first comes before anyone was told of the erasure
                done = begun.commit()
                assert (done.row_count, done.quarantined_row_count) == (1, 0)
                append(catalog, "clients", table_of("anna", "dora"))

        lake, quarantine = erase_subject(catalog, "credit", subject("anna"), RECEIPT, look_on)
    assert (lake.rows_erased, lake.remaining_hits, lake.error) == (3, 0, "")
    assert (quarantine.rows_erased, quarantine.remaining_hits, quarantine.error) == (0, 0, "")
    left = read(opened, keys_of(catalog), "client_id").column(0).to_pylist()
    assert sorted(left) == sorted(subject(name) for name in ("bert", "bert", "bert", "carl", "dora"))


def test_an_append_that_begins_during_the_search_and_ends_after_it_leaves_the_subject_out(catalog: Catalog) -> None:
    """It is the only one, so none was under way when the search began."""
    for _ in range(2):
        append(catalog, "clients", table_of("bert"))
    limits, calls = AppendLimits(), 0
    rows = table_of("anna", "carl", "anna", limit=pa.array([1, 1, -1], pa.int64()))
    begun = Appending(catalog, catalog.open("clients"), str(uuid.uuid4()), limits=limits, budget=ByteBudget(1 << 30))
    with contextlib.ExitStack() as stack:

        def look_on() -> None:
            nonlocal calls
            calls += 1
            if calls == 2:  # the first comes before the search
                stack.enter_context(begun).add(ipc(rows))

        stores = erase_subject(catalog, "credit", subject("anna"), RECEIPT, look_on)
        assert [store.remaining_hits for store in stores] == [0, 0]
        done = begun.commit()
    assert (done.row_count, done.quarantined_row_count) == (1, 0)
    assert catalog.open("clients").table.search(subject("anna")).hits == 0


def test_an_append_that_had_looked_before_the_subject_was_named_is_waited_for(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows of no erasure and holds the dataset: what it commits is found, in the lake and in quarantine."""
    append(catalog, "clients", table_of("bert"))
    looked, is_searched, go_on = threading.Event(), threading.Event(), threading.Event()
    begin = IngestionStore.begin_append

    def slowly(*args: Any, **options: Any) -> None:
        looked.set()
        assert go_on.wait(30)
        begin(*args, **options)

    def look_on() -> None:
        if is_searched.is_set():  # the second time, when the subject has been named
            go_on.set()
        is_searched.set()

    monkeypatch.setattr(IngestionStore, "begin_append", slowly)
    rows = table_of("anna", "anna", limit=pa.array([1, -1], pa.int64()))
    appending = threading.Thread(target=append, args=(catalog, "clients", rows))
    appending.start()
    try:
        assert looked.wait(30)
        lake, quarantine = erase_subject(catalog, "credit", subject("anna"), RECEIPT, look_on)
    finally:
        go_on.set()
        appending.join()
    assert (lake.rows_erased, lake.remaining_hits) == (1, 0)
    assert (quarantine.rows_erased, quarantine.remaining_hits) == (1, 0)
    assert catalog.open("clients").table.search(subject("anna")).hits == 0


def test_the_database_is_scrubbed_once_per_erasure_and_only_after_deletions(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    scrubbed: list[str] = []
    held_up: set[int] = {2, 4}

    def scrub(table: str) -> None:
        scrubbed.append(table)
        if len(scrubbed) in held_up:
            raise UnavailableError("an older transaction is open")

    monkeypatch.setattr("services.ingestion.erasure.SCRUB_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(catalog.store._database, "scrub", scrub)
    # Once after a start, for a process before may have died between.
    for _ in range(2):
        erase_subject(catalog, "credit", subject("nobody"), RECEIPT, go_on)
        assert scrubbed == ["quarantine"]
    for dataset_id in ("clients", "statements"):
        append(catalog, dataset_id, table_of("anna", limit=pa.array([-1], pa.int64())))
    # It is tried again, and what was done before is reported.
    _, quarantine = erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)
    assert (quarantine.rows_erased, quarantine.error, len(scrubbed)) == (2, "", 3)
    append(catalog, "clients", table_of("anna", "anna", limit=pa.array([1, -1], pa.int64())))
    with monkeypatch.context() as patch:
        patch.setattr("services.ingestion.erasure.SCRUB_SECONDS", 0.0)
        lake, quarantine = erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)
    assert (lake.rows_erased, lake.error) == (1, "")
    assert (quarantine.rows_erased, quarantine.error) == (1, "an older transaction is open")
    # The rows are gone from the tables, and what they held is not: that is not forgotten.
    for _ in range(2):
        _, quarantine = erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)
        assert (quarantine.rows_erased, quarantine.error, len(scrubbed)) == (0, "", 5)
    # Rows of an append that did not end count too.
    catalog.store.begin_append("clients", "r", [SealedRow(0, "a reason", b"x")], now_us=1)
    catalog.store.discard_append("clients", "r")
    erase_subject(catalog, "credit", subject("nobody"), RECEIPT, go_on)
    assert len(scrubbed) == 6


def test_a_database_that_is_held_up_is_not_waited_for_when_nobody_waits(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_held_up = False

    def scrub(_: str) -> None:
        nonlocal is_held_up
        is_held_up = True
        raise UnavailableError("an older transaction is open")

    def stop() -> None:
        if is_held_up:
            raise CallCancelledError("nobody waits")

    monkeypatch.setattr(catalog.store._database, "scrub", scrub)
    with pytest.raises(CallCancelledError):
        erase_subject(catalog, "credit", subject("anna"), RECEIPT, stop)


def test_a_subject_that_is_not_there(catalog: Catalog) -> None:
    append(catalog, "clients", table_of("bert"))
    lake, quarantine = erase_subject(catalog, "credit", subject("nobody"), RECEIPT, go_on)
    assert (lake.objects_destroyed, lake.rows_erased, lake.remaining_hits, lake.error) == (0, 0, 0, "")
    assert (quarantine.objects_searched, quarantine.error) == (0, "")
    assert erase_subject(catalog, "none", subject("nobody"), RECEIPT, go_on)[0].objects_searched == 0


def test_a_fault_in_one_dataset_is_reported_and_does_not_spare_the_others(catalog: Catalog) -> None:
    for dataset_id in ("clients", "statements"):
        append(catalog, dataset_id, table_of("anna"))
    location = catalog.open("clients").table.snapshot().location.removeprefix("file://")
    (path,) = Path(location).glob("part-*.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    lake, _ = erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)
    assert "datasets/clients" in lake.error
    assert lake.rows_erased == 1
    path.write_bytes(whole)
    lake, _ = erase_subject(catalog, "credit", subject("anna"), RECEIPT, go_on)
    assert (lake.error, lake.rows_erased, lake.remaining_hits) == ("", 1, 0)


def test_it_stops_when_nobody_waits(catalog: Catalog) -> None:
    append(catalog, "clients", table_of("anna"))

    def stop() -> None:
        raise CallCancelledError("nobody waits")

    with pytest.raises(CallCancelledError):
        erase_subject(catalog, "credit", subject("anna"), RECEIPT, stop)


@pytest.mark.parametrize(
    ("domain", "pseudonym", "field"),
    [
        ("", "0" * 32, "domain"),
        ("Credit", "0" * 32, "domain"),
        ("credit", "anna", "pseudonym"),
        ("credit", "", "pseudonym"),
    ],
)
def test_a_subject_is_named_by_domain_and_pseudonym(domain: str, pseudonym: str, field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_subject(domain, pseudonym)
    assert list(caught.value.fields) == [field]
    assert "anna" not in caught.value.message
