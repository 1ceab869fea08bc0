"""A subject leaves every dataset of its domain: lake and quarantine, and the counts say what was done."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest

from hedgerow.errors import CallCancelledError, FailedPreconditionError, InvalidArgumentError
from services.ingestion.append import Appending, AppendLimits, ByteBudget
from services.ingestion.catalog import Catalog
from services.ingestion.erasure import check_subject, erase_subject
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
