"""Appends and versions: whole or not at all, once, and each version as it was."""

from __future__ import annotations

import json
import tempfile
import threading
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import AbortedError, FailedPreconditionError, NotFoundError, UnavailableError
from libs.lake import Keyring, LakeTable, TableLayout
from tests.unit.lake.lake_fixtures import LAYOUT, SCHEMA, KeyService, clients, make_table, read, rows


@pytest.fixture
def service() -> KeyService:
    return KeyService()


MICROS = st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
ROW = st.fixed_dictionaries(
    {
        "client_id": st.text(st.characters(codec="utf-8"), max_size=12),
        "opened_at": MICROS,
        "balance": st.none() | st.integers(-(2**63), 2**63 - 1),
        "ratio": st.none() | st.floats(allow_nan=False),
        "active": st.none() | st.booleans(),
    }
)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.lists(ROW, max_size=20), min_size=1, max_size=3))
def test_what_is_appended_is_read_back_exactly(appends: list[list[dict[str, object]]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        service = KeyService()
        table = make_table(Path(folder), service)
        parts = [pa.Table.from_pylist(part, schema=SCHEMA) for part in appends]
        versions = [table.append(part, f"r{i}").version for i, part in enumerate(parts)]
        seen = 0
        for i, version in enumerate(versions):
            seen += parts[i].num_rows
            whole = read(table, service, version)
            assert whole.num_rows == seen
            assert whole.schema == SCHEMA
        everything = pa.concat_tables(parts)
        order = [(name, "ascending") for name in SCHEMA.names]
        assert whole.sort_by(order).equals(everything.sort_by(order))


def test_fs_10_an_integer_beside_a_null_stays_exact(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(pa.concat_tables([rows("a"), rows("b", balance=None)]), "r1")
    column = read(table, service).column("balance")
    assert column.type == pa.int64()
    assert sorted(column.to_pylist(), key=str) == [9_007_199_254_740_993, None]


def test_fs_11_a_column_of_nulls_has_its_declared_type(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    nothing = [
        pa.nulls(3, field.type) if field.nullable else rows("a", "b", "c").column(field.name) for field in SCHEMA
    ]
    table.append(pa.table(nothing, schema=SCHEMA), "r1")
    assert read(table, service).schema == SCHEMA


def test_versions_count_from_the_empty_table(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    assert (table.snapshot().version, table.snapshot().row_count) == (0, 0)
    assert read(table, service).schema == SCHEMA
    assert [table.append(rows(c), c).version for c in "abc"] == [1, 2, 3]
    assert [clients(table, service, v) for v in range(4)] == [[], ["a"], ["a", "b"], ["a", "b", "c"]]
    assert table.snapshot(2).row_count == 2
    for missing in (4, -1):
        with pytest.raises(NotFoundError):
            table.snapshot(missing)


def test_a_repeat_appends_once_and_says_so(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    first = table.append(rows("a", "b"), "r1")
    table.append(rows("c"), "r2")
    again = make_table(tmp_path, service).append(rows("a", "b"), "r1")
    assert (again.version, again.row_count, again.repeated) == (first.version, 2, True)
    assert clients(table, service) == ["a", "b", "c"]


def test_no_rows_make_no_version(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    assert table.append(SCHEMA.empty_table(), "r1").version == 0
    assert table.find("r1") is None


def test_a_failure_leaves_nothing_and_the_repeat_succeeds(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    service.down = True
    with pytest.raises(UnavailableError):
        table.append(rows("a"), "r1")
    assert list((tmp_path / "clients").glob("part-*")) == []
    assert table.snapshot().version == 0
    service.down = False
    assert table.append(rows("a"), "r1").version == 1


def test_ing_05_two_writers_lose_and_double_nothing(tmp_path: Path, service: KeyService) -> None:
    make_table(tmp_path, service)

    def writer(number: int) -> None:
        table = make_table(tmp_path, service)
        for i in range(6):
            while True:
                try:
                    table.append(rows(f"{number}-{i}"), f"{number}-{i}")
                    break
                except AbortedError:
                    continue

    threads = [threading.Thread(target=writer, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    table = make_table(tmp_path, service)
    assert clients(table, service) == sorted(f"{n}-{i}" for n in range(3) for i in range(6))
    assert table.snapshot().version == 18


def test_the_log_holds_no_value_of_the_data(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("marker-of-a-person", balance=777_123_777), "r1")
    table.erase("marker-of-a-person", "erasureRequests/e1")
    for path in (tmp_path / "clients" / "_delta_log").iterdir():
        content = path.read_text()
        assert "marker-of-a-person" not in content
        assert "777123777" not in content
        for line in content.splitlines():
            stats = json.loads(line).get("add", {}).get("stats")
            assert stats is None or set(json.loads(stats)) == {"numRecords"}


def test_orphans_are_cleaned_and_live_files_are_not(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a"), "r1")
    table.append(rows("b"), "r2")
    (live, *_) = (tmp_path / "clients").glob("part-*.parquet")
    orphan = live.with_name("part-00000000-0000-0000-0000-000000000000.parquet")
    orphan.write_bytes(b"PARE half-written")
    assert table.clean(older_than=timedelta(hours=1)) == 0
    assert table.clean(older_than=timedelta(0)) == 1
    assert not orphan.exists()
    assert clients(table, service) == ["a", "b"]


def test_a_table_of_another_schema_is_not_taken_over(tmp_path: Path, service: KeyService) -> None:
    make_table(tmp_path, service)
    schema = pa.schema([pa.field("other", pa.string())])
    other = TableLayout(schema, LAYOUT.footer_key, {"other": "keys/test-plain"})
    ring = Keyring(wrap=service.wrap, unwrap=service.unwrap)
    with pytest.raises(FailedPreconditionError):
        LakeTable((tmp_path / "clients").as_uri(), other, ring).create()
    with pytest.raises(NotFoundError):
        LakeTable((tmp_path / "none").as_uri(), other, ring).snapshot()
