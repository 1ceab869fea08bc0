"""Field case PRV-01: an erased row is nowhere, not in old versions, not in files that no version lists."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from hedgerow.errors import AbortedError, CallCancelledError, DataLossError, FailedPreconditionError, UnavailableError
from libs.lake import search
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


def test_a_plain_file_that_goes_while_it_is_searched_is_gone(
    tmp_path: Path, service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the log writes its checkpoints under another name first."""
    table = make_table(tmp_path, service)
    pq.write_table(rows(SUBJECT), tmp_path / "clients" / "_delta_log" / "checkpoint.tmp")
    really, opened = LocalFolder.open, 0

    def open_once(folder: LocalFolder, name: str) -> Any:
        nonlocal opened
        if name.endswith("checkpoint.tmp"):
            opened += 1
            if opened == 2:
                (tmp_path / "clients" / name).unlink()
        return really(folder, name)

    assert table.search(SUBJECT).hits == 1
    monkeypatch.setattr(LocalFolder, "open", open_once)
    assert (table.search(SUBJECT).hits, opened) == (0, 2)


def test_the_log_is_read_once_whatever_a_crash_left(
    tmp_path: Path, service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(tmp_path, service)
    for number in range(3):
        (tmp_path / "clients" / f"part-00000000-0000-0000-0000-00000000000{number}.parquet").write_bytes(b"PARE")
    read, really = [], DeltaLog.referenced

    def referenced(*args: Any) -> set[str]:
        read.append(args)
        return really(*args)

    monkeypatch.setattr(DeltaLog, "referenced", referenced)
    assert table.erase(SUBJECT, RECEIPT).objects_destroyed == 3
    assert len(read) == 1


def test_the_log_is_not_read_to_erase(tmp_path: Path, service: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only an unreadable file makes its names worth knowing; and then whoever waits can still go away."""
    table = make_table(tmp_path, service)
    for number in range(5):
        table.append(rows(f"other{number}"), f"r{number}")
    table.append(rows(SUBJECT), "r5")
    with monkeypatch.context() as patch:
        patch.setattr(DeltaLog, "referenced", lambda *_: 1 / 0)
        assert table.erase(SUBJECT, RECEIPT).rows_erased == 1
    checks = 0

    def stop() -> None:
        nonlocal checks
        checks += 1
        if checks == 3:
            raise CallCancelledError("nobody waits")

    with pytest.raises(CallCancelledError):
        DeltaLog(LocalFolder((tmp_path / "clients").as_uri())).referenced(stop)


def test_appends_go_on_while_the_subject_is_looked_for_and_none_slips_through(
    tmp_path: Path, service: KeyService
) -> None:
    """What was appended before the table was closed goes too; what comes after is not in the files to search."""
    table = make_table(tmp_path, service)
    for number in range(3):
        table.append(rows(f"other{number}", SUBJECT), f"r{number}")
    is_closed = False
    appended: list[int] = []

    def append_meanwhile() -> None:
        if not is_closed and len(appended) < 2:
            appended.append(table.append(rows(f"late{len(appended)}", SUBJECT), f"late{len(appended)}").version)

    @contextlib.contextmanager
    def closed() -> Iterator[None]:
        nonlocal is_closed
        is_closed = True
        yield

    done = table.erase(SUBJECT, RECEIPT, append_meanwhile, closed=closed())
    assert appended == [4, 5]
    assert (done.objects_rewritten, done.rows_erased) == (5, 5)
    table.append(rows("new", SUBJECT), "new")
    assert table.search(SUBJECT, files=done.files).hits == 0
    assert table.search(SUBJECT).hits == 1
    assert clients(table, service) == sorted([*(f"other{i}" for i in range(3)), "late0", "late1", "new", SUBJECT])


def test_an_erasure_that_was_stopped_goes_on_where_it_was(
    tmp_path: Path, service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(tmp_path, service)
    for number in range(6):
        table.append(rows(f"other{number}"), f"r{number}")
    table.append(rows(SUBJECT), "r6")
    read: list[str] = []
    count = search.count_in_sealed

    def counted(folder: LocalFolder, name: str, *rest: Any) -> int:
        read.append(name)
        return count(folder, name, *rest)

    def stop() -> None:
        if len(read) == 4:
            raise CallCancelledError("nobody waits")

    monkeypatch.setattr(search, "count_in_sealed", counted)
    with pytest.raises(CallCancelledError):
        table.erase(SUBJECT, RECEIPT, stop)
    done = table.erase(SUBJECT, RECEIPT)
    assert (done.objects_destroyed, done.rows_erased) == (1, 1)
    found = table.search(SUBJECT, files=done.files)
    assert (found.hits, found.objects_searched) == (0, len(table._folder.objects()))
    # Each file without the subject was read once, the one with it by both attempts at most.
    assert len(read) <= 8
    # A search of its own begins anew.
    assert table.search(SUBJECT).hits == 0
    assert len(read) >= 13


def test_a_file_that_changed_since_is_read_again(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a"), "r1")
    table.erase(SUBJECT, RECEIPT)
    (live,) = (tmp_path / "clients").glob("part-*.parquet")
    live.write_bytes(live.read_bytes()[:-20])
    with pytest.raises(DataLossError):
        table.search(SUBJECT)


def test_an_erasure_that_fails_leaves_no_file_behind(
    tmp_path: Path, service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a", SUBJECT), "r1")
    before = set(table._folder.objects())

    def lose(*args: object, **kwargs: object) -> None:
        raise AbortedError("another process was first")

    with monkeypatch.context() as patch:
        patch.setattr(DeltaLog, "commit", lose)
        with pytest.raises(AbortedError):
            table.erase(SUBJECT, RECEIPT)
    assert set(table._folder.objects()) == before
