"""Record files in the form of a contract."""

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hedgerow.errors import InvalidArgumentError
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from hedgerow.sdk import records

_CONTRACT = pb.Contract(
    columns=[
        pb.Column(name="shop", type=pb.Column.TYPE_STRING),
        pb.Column(name="day", type=pb.Column.TYPE_TIMESTAMP),
        pb.Column(name="sold", type=pb.Column.TYPE_INT64),
        pb.Column(name="open", type=pb.Column.TYPE_BOOL),
        pb.Column(name="share", type=pb.Column.TYPE_FLOAT64),
    ]
)
_HEAD = "extra,sold,shop,day,open,share\n"


def _csv(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "shops.csv"
    path.write_text(text)
    return path


def test_columns_come_in_the_order_and_types_of_the_contract(tmp_path: Path) -> None:
    path = _csv(tmp_path, _HEAD + "z,7,a,2026-01-02T03:04:05Z,true,0.5\nz,,b,2026-01-02T03:04:05+01:00,false,\n")
    table = records.read(path, _CONTRACT)
    assert table.schema == records.schema(_CONTRACT)
    assert table.to_pylist() == [
        {"shop": "a", "day": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "sold": 7, "open": True, "share": 0.5},
        {"shop": "b", "day": datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC), "sold": None, "open": False, "share": None},
    ]


def test_times_without_a_zone_need_one(tmp_path: Path) -> None:
    path = _csv(tmp_path, _HEAD + "z,7,a,2026-07-02,true,0.5\n")
    with pytest.raises(InvalidArgumentError, match=r"name no zone.*--timezone UTC") as caught:
        records.read(path, _CONTRACT)
    assert caught.value.fields == {"day": "does not fit"}
    [row] = records.read(path, _CONTRACT, "Europe/Vienna").to_pylist()
    assert row["day"] == datetime(2026, 7, 1, 22, tzinfo=UTC)


def test_an_unknown_zone_is_told(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="Nowhere"):
        records.read(_csv(tmp_path, _HEAD + "z,7,a,2026-07-02,true,0.5\n"), _CONTRACT, "Nowhere")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("shop,day,sold\na,2026-01-01T00:00:00Z,1\n", "has no column open, share"),
        (_HEAD + "z,seven,a,2026-01-02T03:04:05Z,true,0.5\n", "column sold, line 2: CSV conversion error to int64"),
        (_HEAD + "z,7,a,yesterday,true,0.5\n", "column day does not fit"),
        ("", "shops.csv"),
    ],
)
def test_what_does_not_fit_is_told(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        records.read(_csv(tmp_path, text), _CONTRACT)
    assert told in caught.value.message


def test_other_forms_give_the_same_table(tmp_path: Path) -> None:
    plain = _csv(tmp_path, _HEAD + "z,7,a,2026-01-02T03:04:05Z,true,0.5\n")
    table = records.read(plain, _CONTRACT)
    zipped, parquet, arrow = (tmp_path / f"shops.{kind}" for kind in ("csv.gz", "parquet", "arrow"))
    zipped.write_bytes(gzip.compress(plain.read_bytes()))
    pq.write_table(table, parquet)
    with pa.ipc.new_file(arrow, table.schema) as writer:
        writer.write_table(table)
    assert all(records.read(path, _CONTRACT).equals(table) for path in (zipped, parquet, arrow))


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "shops.xlsx"
    path.write_bytes(b"")
    with pytest.raises(InvalidArgumentError, match=r"expected a \.csv"):
        records.read(path, _CONTRACT)
