"""The search for readable data on disk."""

import io
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from examples.credit import disk
from examples.credit.disk import CHUNK
from examples.credit.steps.erasure import IDENTIFIERS

_TABLE = pa.table({"value": [1, 2, 3]})


def test_random_bytes_are_neither_readable_nor_hits(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "sealed").write_bytes(b"\x01" + os.urandom(100_000))
    found = disk.search(tmp_path, IDENTIFIERS, [b"CARD-01-00020001"])
    assert (found.files, found.bytes, found.plaintext, found.hits) == (1, 100_001, [], [])
    assert found.sealed == 0


def test_sealed_files_are_counted(tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(b"PARE" + os.urandom(100))
    found = disk.search(tmp_path, IDENTIFIERS, [])
    assert (found.sealed, found.plaintext) == (1, [])


def _readable(form: str) -> bytes:
    """Return a file that holds records in clear."""
    file = io.BytesIO()
    if form == "parquet":
        pq.write_table(_TABLE, file)
    elif form == "stream":
        with pa.ipc.new_stream(file, _TABLE.schema) as writer:
            writer.write_table(_TABLE)
    elif form == "file":
        with pa.ipc.new_file(file, _TABLE.schema) as writer:
            writer.write_table(_TABLE)
    else:
        file.write(b"SQLite format 3\0" + bytes(100))
    return file.getvalue()


@pytest.mark.parametrize("form", ["parquet", "stream", "file", "sqlite"])
def test_formats_that_hold_records_in_clear_are_found(tmp_path: Path, form: str) -> None:
    path = tmp_path / "data"
    path.write_bytes(_readable(form))
    assert disk.search(tmp_path, IDENTIFIERS, []).plaintext == [path]


@pytest.mark.parametrize("form", ["parquet", "stream", "file", "sqlite"])
def test_a_volume_of_an_object_store_is_searched_for_the_objects_in_it(tmp_path: Path, form: str) -> None:
    volume = tmp_path / "lake_1.dat"
    sealed = b"PARE" + (300).to_bytes(4, "little") + os.urandom(300)
    volume.write_bytes(b"needle" + sealed + b"checksum" + sealed + b"PARE and PAR1 by chance")
    found = disk.search(tmp_path, IDENTIFIERS, [])
    assert (found.sealed, found.plaintext) == (2, [])
    volume.write_bytes(b"needle" + sealed + b"checksum" + _readable(form))
    assert disk.search(tmp_path, IDENTIFIERS, []).plaintext == [volume]


@pytest.mark.parametrize("text", ["CARD-01-00000007", "SYN-A123456789", "mary.o'neil.17@example.org"])
def test_identifiers_in_clear_are_found(tmp_path: Path, text: str) -> None:
    (tmp_path / "log").write_text(f"x {text} y")
    assert disk.search(tmp_path, IDENTIFIERS, []).plaintext == [tmp_path / "log"]


def test_a_word_on_the_edge_of_two_pieces_is_found(tmp_path: Path) -> None:
    word = b"CARD-01-00020001"
    (tmp_path / "big").write_bytes(bytes(CHUNK - 5) + word + bytes(50))
    found = disk.search(tmp_path, IDENTIFIERS, [word])
    assert found.hits == [tmp_path / "big"]
    assert found.bytes == CHUNK - 5 + len(word) + 50


def test_words_are_taken_literally(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("annaxlee")
    assert disk.search(tmp_path, IDENTIFIERS, [b"anna.lee"]).hits == []
