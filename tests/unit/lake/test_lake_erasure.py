"""Field case PRV-01: an erased row is nowhere, not in old versions, not in files that no version lists."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from hedgerow.errors import CallCancelledError, DataLossError, FailedPreconditionError, UnavailableError
from libs.lake.delta_log import DeltaLog
from libs.lake.local_folder import LocalFolder
from tests.unit.lake.lake_fixtures import KeyService, clients, make_table, read, rows

SUBJECT = "5b1d4e8fa0c93377aa00112233445566"
RECEIPT = "erasureRequests/e1"


@pytest.fixture
def service() -> KeyService:
    return KeyService()


def erased(table: object, version: int) -> str:
    with pytest.raises(FailedPreconditionError) as caught:
        table.snapshot(version)  # type: ignore[attr-defined]
    assert caught.value.reason == "VERSION_ERASED"
    return caught.value.metadata["receipt"]


def test_prv_01_the_subject_is_found_nowhere_and_other_history_still_opens(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    folder = LocalFolder((tmp_path / "clients").as_uri())
    table.append(rows("early"), "r0")
    for i in range(5):
        table.append(rows(f"other{i}", SUBJECT), f"r{i + 1}")
    # A file that takes the place of all others, as compaction makes it: version 7.
    live = table.snapshot()
    whole = table._write(read(table, service))
    DeltaLog(folder).commit(adds=[whole], removes=live.files)
    assert table.snapshot().version == 7
    # A file that no version lists, as a crash leaves it.
    orphan = table._write(rows("lost", SUBJECT))
    assert table.search(SUBJECT).hits == 11

    done = table.erase(SUBJECT, RECEIPT)

    assert (done.objects_rewritten, done.objects_destroyed, done.rows_erased) == (1, 7, 5)
    found = table.search(SUBJECT)
    assert found.hits == 0
    objects = [path for path in (tmp_path / "clients").rglob("*") if path.is_file()]
    assert found.objects_searched == len(objects)
    assert not (tmp_path / "clients" / orphan.name).exists()
    for path in objects:
        assert SUBJECT.encode() not in path.read_bytes()
    assert clients(table, service) == sorted(["early", *(f"other{i}" for i in range(5))])
    assert clients(table, service, 0) == []
    assert clients(table, service, 1) == ["early"]
    assert {erased(table, version) for version in range(2, 8)} == {RECEIPT}
    # What was destroyed is remembered across a restart.
    assert erased(make_table(tmp_path, service), 4) == RECEIPT


def test_erasing_again_does_nothing(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a", SUBJECT), "r1")
    table.erase(SUBJECT, RECEIPT)
    version = table.snapshot().version
    again = table.erase(SUBJECT, "erasureRequests/e2")
    assert (again.objects_rewritten, again.objects_destroyed, again.rows_erased) == (0, 0, 0)
    assert table.snapshot().version == version
    assert erased(table, 1) == RECEIPT


def test_a_file_of_the_subject_alone_leaves_no_file(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows(SUBJECT), "r1")
    table.erase(SUBJECT, RECEIPT)
    assert (table.snapshot().row_count, table.snapshot().files) == (0, ())
    table.append(rows("b"), "r2")
    assert clients(table, service) == ["b"]


def test_a_retried_append_does_not_bring_the_subject_back(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a", SUBJECT), "r1")
    table.erase(SUBJECT, RECEIPT)
    assert table.append(rows("a", SUBJECT), "r1").repeated
    assert clients(table, service) == ["a"]


@pytest.mark.parametrize("step", ["commit", "record", "delete"])
def test_an_erasure_that_dies_is_taken_up_again(
    tmp_path: Path, service: KeyService, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a", SUBJECT), "r1")
    target, name = {
        "commit": (DeltaLog, "commit"),
        "record": (LocalFolder, "move"),
        "delete": (LocalFolder, "delete"),
    }[step]

    def die(*args: object, **kwargs: object) -> None:
        raise UnavailableError("died")

    with monkeypatch.context() as patch:
        patch.setattr(target, name, die)
        with pytest.raises(UnavailableError):
            table.erase(SUBJECT, RECEIPT)
    restarted = make_table(tmp_path, service)
    restarted.erase(SUBJECT, RECEIPT)
    assert restarted.search(SUBJECT).hits == 0
    assert clients(restarted, service) == ["a"]
    assert erased(restarted, 1) == RECEIPT


def test_an_erasure_stops_when_nobody_waits(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows(SUBJECT), "r1")

    def stop() -> None:
        raise CallCancelledError("nobody waits")

    with pytest.raises(CallCancelledError):
        table.erase(SUBJECT, RECEIPT, stop)
    assert clients(table, service) == [SUBJECT]


def test_an_unreadable_orphan_goes_but_an_unreadable_live_file_is_reported(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a"), "r1")
    (live,) = (tmp_path / "clients").glob("part-*.parquet")
    orphan = live.with_name("part-00000000-0000-0000-0000-000000000000.parquet")
    shutil.copy(live, orphan)
    table.erase(SUBJECT, RECEIPT)
    assert not orphan.exists()
    live.write_bytes(live.read_bytes()[:-20])
    with pytest.raises(DataLossError):
        table.erase(SUBJECT, RECEIPT)
    with pytest.raises(DataLossError):
        table.search(SUBJECT)


def test_plain_objects_are_searched_too(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    (tmp_path / "clients" / "stray.txt").write_text(f"left behind: {SUBJECT}")
    found = table.search(SUBJECT)
    assert (found.objects_searched, found.hits) == (2, 1)
