"""Sealed files: nothing readable on disk, changes found, keys of tags held apart."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hedgerow.errors import AbortedError, DataLossError, PermissionDeniedError
from libs.lake import SnapshotReader, TableLayout
from tests.unit.lake.lake_fixtures import LAYOUT, SCHEMA, KeyService, make_table, read, rows

MARKER = "marker-of-a-person"


@pytest.fixture
def service() -> KeyService:
    return KeyService()


def only_file(folder: Path) -> Path:
    (path,) = (folder / "clients").glob("part-*.parquet")
    return path


def reader(folder: Path, service: KeyService, *files: str, schema: pa.Schema = SCHEMA) -> SnapshotReader:
    names = files or (only_file(folder).name,)
    return SnapshotReader(location=(folder / "clients").as_uri(), files=names, schema=schema, unwrap=service.unwrap)


def test_nothing_of_the_data_is_readable_on_disk(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows(*[MARKER] * 50, balance=0x4D41524B4D41524B), "r1")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert MARKER.encode() not in content
            assert b"KRAMKRAM" not in content
    assert only_file(tmp_path).read_bytes()[:4] == b"PARE"


def test_files_and_folders_are_for_the_service_alone(tmp_path: Path, service: KeyService) -> None:
    make_table(tmp_path, service).append(rows("a"), "r1")
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path.name


def test_every_column_needs_a_key() -> None:
    with pytest.raises(ValueError, match="exactly one key"):
        TableLayout(SCHEMA, "keys/footer", {"client_id": "keys/pii"})


def test_keys_of_256_bits_are_wrapped_once_per_key_and_ring(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a"), "r1")
    table.append(rows("b"), "r2")
    assert service.wrapped_lengths == [32] * len({LAYOUT.footer_key, *LAYOUT.column_keys.values()})
    read(table, service)
    assert service.unwraps == 4


def test_a_reader_without_the_key_of_a_tag_reads_the_other_columns(tmp_path: Path, service: KeyService) -> None:
    make_table(tmp_path, service).append(rows("a", "b"), "r1")
    service.refused = {"keys/test-pii"}
    got = reader(tmp_path, service).table(["ratio", "balance"])
    assert got.to_pylist() == [
        {"ratio": 0.0, "balance": 9_007_199_254_740_993},
        {"ratio": 1 / 7, "balance": 9_007_199_254_740_993},
    ]
    for attempt in (
        lambda: reader(tmp_path, service).table(["client_id"]),
        lambda: reader(tmp_path, service).batches(["client_id"]).read_all(),
        lambda: reader(tmp_path, service).table(),
    ):
        with pytest.raises(PermissionDeniedError) as caught:
            attempt()
        assert caught.value.reason == "GRANT_INVALID"
        assert caught.value.metadata == {"key": "keys/test-pii"}


def test_a_column_that_the_snapshot_does_not_cover_is_refused(tmp_path: Path, service: KeyService) -> None:
    make_table(tmp_path, service).append(rows("a"), "r1")
    covered = pa.schema([SCHEMA.field("ratio")])
    with pytest.raises(PermissionDeniedError, match="does not cover client_id"):
        reader(tmp_path, service, schema=covered).table(["client_id"])
    assert reader(tmp_path, service, schema=covered).table().column_names == ["ratio"]


def test_a_plain_file_is_refused(tmp_path: Path, service: KeyService) -> None:
    make_table(tmp_path, service).append(rows("a"), "r1")
    pq.write_table(rows("intruder"), only_file(tmp_path))
    with pytest.raises(DataLossError, match="not a sealed file"):
        reader(tmp_path, service).table()


def test_a_file_in_the_place_of_another_is_found(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows("a"), "r1")
    first = only_file(tmp_path)
    table.append(rows("b"), "r2")
    (second,) = set((tmp_path / "clients").glob("part-*.parquet")) - {first}
    shutil.copy(second, first)
    with pytest.raises(DataLossError, match="not the file that its name says"):
        reader(tmp_path, service, first.name).table()


def test_a_changed_byte_is_found_wherever_it_is(tmp_path: Path, service: KeyService) -> None:
    table = make_table(tmp_path, service)
    table.append(rows(*[f"c{i}" for i in range(20)]), "r1")
    path = only_file(tmp_path)
    original, expected = path.read_bytes(), read(table, service)
    found = 0
    for at in range(0, len(original), 23):
        changed = bytearray(original)
        changed[at] ^= 0x10
        path.write_bytes(changed)
        try:
            assert reader(tmp_path, service).table().equals(expected), f"byte {at} changed the data unseen"
        except DataLossError:
            found += 1
    # What is not authenticated names nothing but a key service instance, which this lake does not use.
    assert found >= 0.95 * len(range(0, len(original), 23))


@pytest.mark.parametrize("length", [0, 3, 4, 8, 100, -1, -4, -8])
def test_a_file_cut_short_is_found(tmp_path: Path, service: KeyService, length: int) -> None:
    make_table(tmp_path, service).append(rows("a"), "r1")
    path = only_file(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataLossError):
        reader(tmp_path, service).table()


def test_a_file_gone_since_the_snapshot_was_opened(tmp_path: Path, service: KeyService) -> None:
    make_table(tmp_path, service).append(rows("a"), "r1")
    opened = reader(tmp_path, service)
    only_file(tmp_path).unlink()
    with pytest.raises(AbortedError, match="open the snapshot again"):
        opened.table()


@pytest.mark.parametrize("name", ["../secret.parquet", "/etc/passwd", "part-x.parquet", "_delta_log/0.json", ""])
def test_only_names_that_the_lake_makes_are_opened(tmp_path: Path, service: KeyService, name: str) -> None:
    with pytest.raises(DataLossError):
        SnapshotReader(location=tmp_path.as_uri(), files=[name], schema=SCHEMA, unwrap=service.unwrap)
