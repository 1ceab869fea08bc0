"""Arrow bytes from outside: malformed ones are refused by one error, and small ones cannot claim much memory."""

from __future__ import annotations

import pyarrow as pa
import pytest

from hedgerow.errors import InvalidArgumentError
from services.ingestion.arrow_stream import expanded_bytes, read_rows, read_schema
from tests.unit.ingestion.ingestion_fixtures import ipc, table_of

END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def taken(content: bytes, max_rows: int = 1000) -> pa.Table:
    read_schema(content)
    return read_rows(content, max_rows)


@pytest.mark.parametrize("content", [b"", b"junk", END, b"junk" + END, END + END, b"\xff" * 64 + END])
def test_what_is_no_stream_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        taken(content)
    assert caught.value.reason == "ARROW_INVALID"


def test_a_stream_cut_anywhere_is_refused() -> None:
    whole = ipc(table_of("a", "b", city=pa.array(["x", "y"]).dictionary_encode()))
    for length in range(0, len(whole), 8):
        with pytest.raises(InvalidArgumentError):
            taken(whole[:length])
    assert taken(whole).num_rows == 2


def test_changed_bytes_are_refused_or_harmless() -> None:
    whole = ipc(table_of("a", "b", city=pa.array(["x", "y"]).dictionary_encode()))
    refused = 0
    for at in range(0, len(whole) - 8, 3):
        changed = bytearray(whole)
        changed[at] ^= 0x81
        try:
            taken(bytes(changed)).validate(full=True)
        except InvalidArgumentError:
            refused += 1
    assert refused > 50


def test_trailing_bytes_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="end marker"):
        taken(ipc(table_of("a")) + b"more")


@pytest.mark.parametrize("compression", ["lz4", "zstd"])
def test_compressed_buffers_are_refused(compression: str) -> None:
    with pytest.raises(InvalidArgumentError, match="without compression"):
        taken(ipc(table_of("a" * 1000), compression))


def test_more_rows_than_allowed_are_refused_before_they_are_read() -> None:
    # A column of nulls takes no bytes, so 2 billion rows fit in a few hundred.
    content = ipc(pa.table({"nothing": pa.nulls(2**31 - 10)}))
    assert len(content) < 1000
    with pytest.raises(InvalidArgumentError, match="more than 1000 rows"):
        taken(content)
    with pytest.raises(InvalidArgumentError, match="more than 9 rows"):
        taken(ipc(pa.concat_tables([table_of("a")] * 10)), max_rows=9)


def test_text_that_is_referred_to_many_times_counts_every_time() -> None:
    text = "x" * 10_000
    indices = pa.array([0] * 500 + [None], pa.int16())
    dictionary = pa.table({"city": pa.DictionaryArray.from_arrays(indices, pa.array([text]))})
    assert len(ipc(dictionary)) < 20_000
    assert expanded_bytes(dictionary) == 501 * 8 + 500 * 10_000
    plain = pa.table({"city": pa.array([text] * 3 + [None])})
    views = pa.table({"city": plain.column("city").cast(pa.string_view())})
    assert expanded_bytes(plain) == expanded_bytes(views) == 4 * 8 + 30_000
    assert expanded_bytes(views.slice(2)) == 2 * 8 + 10_000
