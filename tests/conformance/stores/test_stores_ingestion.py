"""The ingestion service's store on each engine: datasets, appends and quarantine."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import pytest

from hedgerow.errors import AlreadyExistsError, NotFoundError, ResourceExhaustedError
from services.ingestion.dataset import Append, Dataset, SealedRow
from services.ingestion.store import IngestionStore
from tests.conformance.stores.conftest import OpenMetadata
from tests.unit.ingestion.ingestion_fixtures import CONTRACT

DATASET = Dataset("clients", CONTRACT, b"\x00wrapped\xff", 5)
REQUESTS = [f"00000000-0000-4000-8000-{number:012}" for number in range(4)]
ROWS = [SealedRow(number, "a reason", bytes([0, number, 255])) for number in range(3)]


@pytest.fixture
def store(metadata: OpenMetadata) -> IngestionStore:
    return IngestionStore(metadata("ingestion"), max_datasets=4)


def test_datasets_come_back_as_they_were(store: IngestionStore) -> None:
    others = [dataclasses.replace(DATASET, id=name) for name in ("a_b", "ab")]
    for dataset in (DATASET, *others):
        assert store.add_dataset(dataset) == dataset
    assert store.add_dataset(dataclasses.replace(DATASET, create_us=99)) == DATASET
    assert store.dataset("clients") == DATASET
    assert store.datasets_after("", 9) == [*others, DATASET]
    assert store.datasets_after("a_b", 1) == [others[1]]
    assert store.datasets_in(CONTRACT.pseudonym_domain) == [*others, DATASET]
    assert store.datasets_in("none") == []
    with pytest.raises(NotFoundError):
        store.dataset("none")


def test_a_name_means_one_contract_and_datasets_are_bounded(store: IngestionStore) -> None:
    store.add_dataset(DATASET)
    with pytest.raises(AlreadyExistsError):
        store.add_dataset(
            dataclasses.replace(DATASET, contract=dataclasses.replace(CONTRACT, pseudonym_domain="other"))
        )
    for name in ("b", "c", "d"):
        store.add_dataset(dataclasses.replace(DATASET, id=name))
    with pytest.raises(ResourceExhaustedError):
        store.add_dataset(dataclasses.replace(DATASET, id="e"))


def test_of_those_who_add_at_once_one_is_kept(store: IngestionStore) -> None:
    def add(number: int) -> Dataset:
        return store.add_dataset(dataclasses.replace(DATASET, create_us=number))

    with ThreadPoolExecutor(4) as pool:
        kept = set(pool.map(lambda number: add(number).create_us, range(12)))
    assert kept == {store.dataset("clients").create_us}


def test_an_append_is_seen_when_it_is_finished(store: IngestionStore) -> None:
    store.add_dataset(DATASET)
    store.begin_append("clients", REQUESTS[0], ROWS, now_us=7)
    assert store.find_append("clients", REQUESTS[0]) is None
    assert store.quarantined_before("clients", None, 9) == []
    assert store.unfinished_appends() == [("clients", REQUESTS[0])]
    assert store.finish_append("clients", REQUESTS[0], version=3, row_count=11) == Append(3, 11, 3)
    assert store.find_append("clients", REQUESTS[0]) == Append(3, 11, 3)
    assert store.unfinished_appends() == []
    store.discard_append("clients", REQUESTS[0])
    assert store.find_append("clients", REQUESTS[0]) == Append(3, 11, 3)


def test_an_unfinished_append_is_replaced_or_forgotten(store: IngestionStore) -> None:
    store.add_dataset(DATASET)
    store.begin_append("clients", REQUESTS[0], ROWS, now_us=7)
    store.begin_append("clients", REQUESTS[0], ROWS[:1], now_us=8)
    assert [len(chunk) for chunk in store.quarantined_content("clients")] == [1]
    store.discard_append("clients", REQUESTS[0])
    assert list(store.quarantined_content("clients")) == []
    assert store.unfinished_appends() == []


def test_quarantined_rows_are_listed_newest_first_and_deleted(store: IngestionStore) -> None:
    store.add_dataset(DATASET)
    for request in REQUESTS[:2]:
        store.begin_append("clients", request, ROWS, now_us=7)
        store.finish_append("clients", request, version=1, row_count=1)
    listed = store.quarantined_before("clients", None, 4)
    assert [(entry.request_id, entry.row_index) for entry in listed] == [
        (REQUESTS[1], 2),
        (REQUESTS[1], 1),
        (REQUESTS[1], 0),
        (REQUESTS[0], 2),
    ]
    assert [entry.row_index for entry in store.quarantined_before("clients", listed[-1].id, 9)] == [1, 0]
    assert store.quarantined_count("clients") == 6
    (content,) = store.quarantined_content("clients")
    assert [row for _, _, row in content] == ROWS * 2
    store.delete_quarantined([number for number, _, _ in content[:4]])
    ((first, last),) = store.quarantined_content("clients")
    assert (first[2], last[2]) == (ROWS[1], ROWS[2])
    store.delete_quarantined([])
    store.scrub()
    ((first, last),) = store.quarantined_content("clients")
    assert (first[2], last[2]) == (ROWS[1], ROWS[2])
