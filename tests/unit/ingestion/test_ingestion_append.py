"""Appends: within limits, all or nothing over the lake and quarantine, once for each request id."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from hedgerow.errors import (
    AlreadyExistsError,
    CallCancelledError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from libs.lake import LakeTable
from services.ingestion import records
from services.ingestion.append import Appending, AppendLimits, ByteBudget, check_request_id
from services.ingestion.catalog import Catalog
from services.ingestion.dataset import Append
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

FIRST, SECOND = (str(uuid.UUID(int=i)) for i in (1, 2))
GOOD_AND_BAD = table_of("a", "", "b", None, limit=pa.array([1, 2, 3, -4], pa.int64()))


class Service:
    """What one process of the service works with, and a restart of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = Keys()
        self.database, self.store = open_store(folder)
        self.catalog: Catalog = open_catalog(folder, self.store, self.keys)

    def restart(self) -> None:
        self.database.close()
        self.database, self.store = open_store(self.folder)
        self.catalog = open_catalog(self.folder, self.store, self.keys)
        self.catalog.settle()

    def append(self, request_id: str, *tables: pa.Table, **limits: int) -> Append:
        bounds = AppendLimits(**limits)
        budget = ByteBudget(bounds.max_total_bytes)
        opened = self.catalog.open("clients")
        with Appending(self.catalog, opened, request_id, limits=bounds, budget=budget) as appending:
            for table in tables:
                appending.add(ipc(table))
            return appending.commit()

    def clients(self) -> list[str]:
        return sorted(read(self.catalog.open("clients"), self.keys, "client_id").column(0).to_pylist())

    def quarantined(self) -> list[tuple[int, str]]:
        return [(e.row_index, e.reason) for e in self.store.quarantined_before("clients", None, 100)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path)
    made.catalog.create("clients", CONTRACT)
    yield made
    made.database.close()


def test_good_rows_go_to_the_lake_and_bad_ones_to_quarantine(service: Service) -> None:
    done = service.append(FIRST, GOOD_AND_BAD, table_of("c", "", "d"))
    assert done == Append(version=1, row_count=4, quarantined_row_count=3)
    assert service.clients() == sorted(subject(c) for c in "abcd")
    assert service.quarantined() == [
        (5, "column client_id: a key is empty"),
        (3, "column client_id: a key is null; column limit: below the contract's minimum"),
        (1, "column client_id: a key is empty"),
    ]
    assert service.store.quarantined_count("clients") == 3


def test_a_repeat_returns_the_first_result_and_adds_nothing(service: Service) -> None:
    first = service.append(FIRST, GOOD_AND_BAD)
    service.append(SECOND, table_of("z"))
    assert service.append(FIRST, GOOD_AND_BAD) == first
    assert service.clients() == sorted(subject(c) for c in "abz")
    assert len(service.quarantined()) == 2


def test_rows_that_are_all_bad_make_no_version(service: Service) -> None:
    assert service.append(FIRST, table_of("", "")) == Append(0, 0, 2)
    assert service.append(FIRST, table_of("", "")) == Append(0, 0, 2)
    assert len(service.quarantined()) == 2


def test_nothing_is_visible_before_the_commit(service: Service) -> None:
    opened = service.catalog.open("clients")
    with Appending(service.catalog, opened, FIRST, limits=AppendLimits(), budget=ByteBudget(1 << 30)) as appending:
        appending.add(ipc(GOOD_AND_BAD))
        assert (service.clients(), service.quarantined()) == ([], [])
    assert (service.clients(), service.quarantined()) == ([], [])


def test_a_crash_before_the_lake_has_it_leaves_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*args: object) -> None:
        raise UnavailableError("died")

    with monkeypatch.context() as patch:
        patch.setattr(LakeTable, "append", die)
        with pytest.raises(UnavailableError):
            service.append(FIRST, GOOD_AND_BAD)
    assert (service.clients(), service.quarantined()) == ([], [])
    service.restart()
    assert service.store.unfinished_appends() == []
    assert (service.clients(), service.quarantined()) == ([], [])
    assert service.append(FIRST, GOOD_AND_BAD) == Append(1, 2, 2)


def test_a_crash_after_the_lake_has_it_is_settled_at_the_next_start(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*args: object, **kwargs: object) -> None:
        raise UnavailableError("died")

    with monkeypatch.context() as patch:
        patch.setattr(IngestionStore, "finish_append", die)
        with pytest.raises(UnavailableError):
            service.append(FIRST, GOOD_AND_BAD)
    assert service.quarantined() == []
    service.restart()
    assert service.clients() == sorted(subject(c) for c in "ab")
    assert len(service.quarantined()) == 2
    assert service.append(FIRST, GOOD_AND_BAD) == Append(1, 2, 2)
    assert service.clients() == sorted(subject(c) for c in "ab")


def test_a_repeat_after_such_a_crash_appends_once_without_a_restart(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(IngestionStore, "finish_append", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            service.append(FIRST, GOOD_AND_BAD)
    assert service.append(FIRST, GOOD_AND_BAD) == Append(1, 2, 2)
    assert service.clients() == sorted(subject(c) for c in "ab")
    assert len(service.quarantined()) == 2


def test_limits_hold_and_memory_is_given_back(service: Service) -> None:
    opened = service.catalog.open("clients")
    budget = ByteBudget(3000)
    limits = AppendLimits(max_bytes=2000, max_total_bytes=3000)
    one = ipc(table_of(*"abcdefghijklmnop"))
    with Appending(service.catalog, opened, FIRST, limits=limits, budget=budget) as first:
        first.add(one)
        first.add(one)
        with pytest.raises(ResourceExhaustedError) as caught:
            first.add(one)
        assert caught.value.reason == "MESSAGE_TOO_LARGE"
        with (
            Appending(service.catalog, opened, SECOND, limits=limits, budget=budget) as second,
            pytest.raises(ResourceExhaustedError) as caught,
        ):
            second.add(one)
            second.add(one)
        assert (caught.value.reason, caught.value.retry_after) == ("OVERLOADED", 1.0)
    budget.take(3000)


def test_a_call_cancelled_while_a_thread_decodes_gives_all_memory_back(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The context is left on the event loop while the thread goes on; what it takes after that nobody would give back."""
    budget = ByteBudget(1 << 20)
    opened = service.catalog.open("clients")
    decode = records.decode

    def cancelled_meanwhile(*args: Any, **options: Any) -> Any:
        decoded = decode(*args, **options)
        appending.__exit__(None, None, None)
        return decoded

    monkeypatch.setattr(records, "decode", cancelled_meanwhile)
    with (
        Appending(service.catalog, opened, FIRST, limits=AppendLimits(), budget=budget) as appending,
        pytest.raises(CallCancelledError),
    ):
        appending.add(ipc(table_of("a")))
    budget.take(1 << 20)


def test_a_commit_after_the_call_was_cancelled_makes_nothing_of_the_request_id(service: Service) -> None:
    """Its rows are gone from memory; an empty append under the request id would answer every retry."""
    opened = service.catalog.open("clients")
    with Appending(service.catalog, opened, FIRST, limits=AppendLimits(), budget=ByteBudget(1 << 20)) as appending:
        appending.add(ipc(table_of("a")))
    with pytest.raises(CallCancelledError):
        appending.commit()
    assert service.append(FIRST, table_of("a")) == Append(1, 1, 0)


def test_too_many_bad_rows_refuse_the_append(service: Service) -> None:
    with pytest.raises(InvalidArgumentError, match="nothing was appended; row 0: column client_id: a key is empty"):
        service.append(FIRST, table_of("", "", "", "a"), max_quarantined_rows=2)
    assert (service.clients(), service.quarantined()) == ([], [])


def test_too_many_rows_refuse_the_append(service: Service) -> None:
    with pytest.raises(InvalidArgumentError, match="more than 1 rows"):
        service.append(FIRST, table_of("a", "b"), table_of("c", "d"), max_rows=3)


def test_no_identifier_is_stored_anywhere(service: Service) -> None:
    marker = "raw-identifier-of-a-person"
    service.append(FIRST, table_of(marker, marker, limit=pa.array([1, -1], pa.int64())))
    for path in service.folder.rglob("*"):
        if path.is_file():
            assert marker.encode() not in path.read_bytes(), path.name


def test_datasets_are_created_once(service: Service) -> None:
    assert service.catalog.create("clients", CONTRACT).id == "clients"
    with pytest.raises(AlreadyExistsError):
        service.catalog.create("clients", changed(retention_days=1))
    with pytest.raises(NotFoundError):
        service.catalog.open("none")
    with pytest.raises(InvalidArgumentError):
        service.catalog.create("Bad-Id", CONTRACT)


def test_the_number_of_datasets_is_bounded(tmp_path: Path) -> None:
    database, store = open_store(tmp_path, max_datasets=1)
    catalog = open_catalog(tmp_path, store, Keys())
    catalog.create("one", CONTRACT)
    catalog.create("one", CONTRACT)
    with pytest.raises(ResourceExhaustedError):
        catalog.create("two", CONTRACT)
    database.close()


def test_a_request_id_is_a_uuid() -> None:
    assert check_request_id("00000000-0000-0000-0000-00000000000A") == "00000000-0000-0000-0000-00000000000a"
    for bad in ("", "1", "not-a-uuid"):
        with pytest.raises(InvalidArgumentError) as caught:
            check_request_id(bad)
        assert list(caught.value.fields) == ["request_id"]
