"""The lake on a local folder and in an object store: one suite, and what is particular to the store."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from hedgerow.errors import (
    AbortedError,
    DataLossError,
    FailedPreconditionError,
    InvalidArgumentError,
    UnavailableError,
)
from libs.config import LakeConfig
from libs.lake import LOCAL_STORAGE, Keyring, LakeStorage, LakeTable, SnapshotReader
from libs.lake.folder import new_data_file
from suite.backing.seaweedfs import SeaweedFS
from tests.support.openbao import free_port
from tests.unit.lake.lake_fixtures import LAYOUT, SCHEMA, KeyService, rows

SUBJECT = "5b1d4e8fa0c93377aa00112233445566"
RECEIPT = "erasureRequests/e1"
Place = tuple[str, LakeStorage]


@pytest.fixture(scope="session")
def seaweed_storage(seaweedfs: SeaweedFS) -> Iterator[Place]:
    settings = seaweedfs.service_environment("ingestion")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        config = LakeConfig(service="test", listen="", data_dir=Path(), trust_dir=Path())
        yield settings["HEDGEROW_LAKE_LOCATION"], LakeStorage.of(config)


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return (tmp_path / "clients").as_uri(), LOCAL_STORAGE
    location, storage = request.getfixturevalue("seaweed_storage")
    return f"{location}/{uuid.uuid4()}", storage


@pytest.fixture
def service() -> KeyService:
    return KeyService()


@pytest.fixture
def open_table(place: Place, service: KeyService) -> Callable[[], LakeTable]:
    """Opens the table as a process of its own does."""

    def opened() -> LakeTable:
        location, storage = place
        table = LakeTable(location, LAYOUT, Keyring(wrap=service.wrap, unwrap=service.unwrap), storage)
        table.create()
        return table

    return opened


@pytest.fixture
def table(open_table: Callable[[], LakeTable]) -> LakeTable:
    return open_table()


@pytest.fixture
def read(place: Place, service: KeyService, table: LakeTable) -> Callable[..., pa.Table]:
    def whole(version: int | None = None) -> pa.Table:
        found = table.snapshot(version)
        reader = SnapshotReader(
            location=found.location, files=found.files, schema=SCHEMA, unwrap=service.unwrap, storage=place[1]
        )
        return reader.table()

    return whole


def clients(found: pa.Table) -> list[str]:
    return sorted(found.column("client_id").to_pylist())


def test_rows_come_back_and_old_versions_stay(table: LakeTable, read: Callable[..., pa.Table]) -> None:
    assert table.append(rows("a", "b"), "r1").version == 1
    assert table.append(rows("c"), "r2").version == 2
    assert clients(read()) == ["a", "b", "c"]
    assert clients(read(1)) == ["a", "b"]
    assert clients(read(0)) == []
    assert read(1).schema == SCHEMA


def test_a_request_is_carried_out_once_also_by_another_process(
    table: LakeTable, open_table: Callable[[], LakeTable], read: Callable[..., pa.Table]
) -> None:
    table.append(rows("a"), "r1")
    again = open_table().append(rows("a"), "r1")
    assert (again.version, again.row_count, again.repeated) == (1, 1, True)
    assert clients(read()) == ["a"]


def test_writers_at_once_lose_nothing(
    open_table: Callable[[], LakeTable], table: LakeTable, read: Callable[..., pa.Table]
) -> None:
    writers = [open_table() for _ in range(3)]

    def append(number: int) -> str | None:
        try:
            writers[number % 3].append(rows(f"client{number}"), f"r{number}")
        except AbortedError:
            return None
        return f"client{number}"

    with ThreadPoolExecutor(3) as threads:
        done = [name for name in threads.map(append, range(9)) if name]
    assert done
    assert clients(read()) == sorted(done)
    assert table.snapshot().version == len(done)


def test_an_erased_subject_is_nowhere(
    table: LakeTable, open_table: Callable[[], LakeTable], read: Callable[..., pa.Table]
) -> None:
    table.append(rows("a", SUBJECT), "r1")
    table.append(rows("b"), "r2")
    orphan = table._write(rows(SUBJECT))
    done = table.erase(SUBJECT, RECEIPT)
    assert (done.objects_rewritten, done.objects_destroyed, done.rows_erased) == (1, 2, 1)
    found = table.search(SUBJECT)
    assert found.hits == 0
    assert found.objects_searched == len(table._folder.objects())
    assert orphan.name not in table._folder.objects()
    assert clients(read()) == ["a", "b"]
    with pytest.raises(FailedPreconditionError) as caught:
        open_table().snapshot(1)
    assert (caught.value.reason, caught.value.metadata["receipt"]) == ("VERSION_ERASED", RECEIPT)
    assert table.erase(SUBJECT, RECEIPT).objects_destroyed == 0


def test_what_no_version_lists_is_cleaned(table: LakeTable) -> None:
    table.append(rows("a"), "r1")
    orphan = table._write(rows("lost")).name
    assert orphan in table._folder.data_files()
    assert table.clean(older_than=timedelta(hours=1)) == 0
    assert table.clean(older_than=timedelta(hours=-1)) == 1
    assert list(table._folder.data_files()) == list(table.snapshot().files)


def test_a_write_that_fails_leaves_nothing(table: LakeTable) -> None:
    def fail(sink: pa.NativeFile) -> None:
        sink.write(b"half")
        raise UnavailableError("the key service is down")

    with pytest.raises(UnavailableError):
        table._folder.write(new_data_file(), fail)
    assert table._folder.data_files() == {}


def test_a_changed_object_is_refused_and_a_deleted_one_told(table: LakeTable, read: Callable[..., pa.Table]) -> None:
    table.append(rows("a"), "r1")
    (name,) = table.snapshot().files
    content = bytearray(table._folder.read(name))
    content[len(content) // 2] ^= 1
    table._folder.delete(name)
    with pytest.raises(AbortedError):
        read()
    table._folder.write(name, lambda sink: sink.write(bytes(content)))
    with pytest.raises(DataLossError):
        read()
    table._folder.delete(name)
    table._folder.delete(name)


def test_nothing_of_the_data_is_in_clear(table: LakeTable) -> None:
    table.append(rows(SUBJECT), "r1")
    for name in table._folder.objects():
        assert SUBJECT.encode() not in table._folder.read(name)


def test_a_store_that_does_not_answer_is_unavailable(seaweed_storage: Place, service: KeyService) -> None:
    location, storage = seaweed_storage
    away = dataclasses.replace(storage, endpoint=f"https://127.0.0.1:{free_port()}")
    reader = SnapshotReader(
        location=f"{location}/none", files=[new_data_file()], schema=SCHEMA, unwrap=service.unwrap, storage=away
    )
    with pytest.raises(UnavailableError):
        reader.table()
    table = LakeTable(f"{location}/none", LAYOUT, Keyring(wrap=service.wrap, unwrap=service.unwrap), away)
    for call in (table.create, table.snapshot, lambda: table.append(rows("a"), "r1")):
        with pytest.raises(UnavailableError):
            call()


def test_a_wrong_key_is_refused(seaweed_storage: Place, service: KeyService, tmp_path: Path) -> None:
    location, storage = seaweed_storage
    (tmp_path / "secret").write_text("wrong-secret")
    wrong = dataclasses.replace(storage, secret_key_file=tmp_path / "secret")
    table = LakeTable(f"{location}/wrong", LAYOUT, Keyring(wrap=service.wrap, unwrap=service.unwrap), wrong)
    with pytest.raises(UnavailableError) as caught:
        table.create()
    assert "wrong-secret" not in str(caught.value)


def test_a_key_that_is_gone_later_is_no_fault_of_the_caller(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("secret")
    storage = LakeStorage(access_key="key", secret_key_file=file)
    file.unlink()
    with pytest.raises(UnavailableError):
        storage.folder("s3://bucket/lake")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"endpoint": "http://127.0.0.1:9000"}, "lake_endpoint"),
        ({"access_key": "key"}, "lake_secret_key_file"),
        ({"access_key": "key", "secret_key_file": Path("/none")}, "lake_secret_key_file"),
    ],
)
def test_what_is_not_safe_is_refused(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        LakeStorage(**change).folder("s3://bucket/lake")  # type: ignore[arg-type]
    assert list(caught.value.fields) == [field]


@pytest.mark.parametrize("location", ["ftp://host/lake", "http://host/lake", "/srv/lake"])
def test_a_location_of_an_unknown_kind_is_refused(location: str) -> None:
    with pytest.raises(InvalidArgumentError, match="lake_location"):
        LOCAL_STORAGE.folder(location)


def test_azure_and_google_locations_are_configuration() -> None:
    azure = LakeStorage(account="hedgerow").folder("az://container/lake")
    assert azure.delta_options["azure_storage_account_name"] == "hedgerow"
    assert LOCAL_STORAGE.folder("gs://bucket/lake").location == "gs://bucket/lake"
    with pytest.raises(InvalidArgumentError, match="lake_account"):
        LOCAL_STORAGE.folder("az://container/lake")
