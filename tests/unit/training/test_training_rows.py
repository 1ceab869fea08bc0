"""Training sets from Arrow: what is read, and what is refused."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from hedgerow.errors import FailedPreconditionError
from services.training.training_set import TrainingSetReader

SEPTEMBER = dt.datetime(2005, 9, 30, tzinfo=dt.UTC)
AUGUST = dt.datetime(2005, 8, 31, tzinfo=dt.UTC)


def table(**changes: object) -> pa.Table:
    """Two entities at two cut-offs."""
    columns: dict[str, object] = {
        "entity": pa.array(["a", "b", "a", "b"]),
        "as_of_time": pa.array([AUGUST, AUGUST, SEPTEMBER, SEPTEMBER], pa.timestamp("us", "UTC")),
        "label": pa.array([0, 1, 1, 0], pa.int8()),
        "view.x": pa.array([1.0, None, 3.0, 4.0]),
        "view.y": pa.array([5.0, 6.0, 7.0, 8.0]),
    }
    columns |= changes
    return pa.table({name: column for name, column in columns.items() if column is not None})


def stream(content: pa.Table) -> bytes:
    """An Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, content.schema) as writer:
        writer.write_table(content)
    return bytes(sink.getvalue().to_pybytes())


def refusal(*parts: bytes, max_rows: int = 100) -> str:
    """Why parts are refused."""
    with pytest.raises(FailedPreconditionError) as caught:
        reader = TrainingSetReader(max_rows=max_rows)
        for part in parts:
            reader.add(part)
        reader.rows()
    return caught.value.message


def test_rows_of_several_parts() -> None:
    reader = TrainingSetReader()
    reader.add(stream(table().slice(0, 2)))
    reader.add(stream(table().slice(2)))
    rows = reader.rows()
    assert rows.feature_names == ("view.x", "view.y")
    assert rows.entities.tolist() == ["a", "b", "a", "b"]
    assert rows.labels.tolist() == [0, 1, 1, 0]
    assert rows.newest_first() == [int(time.timestamp() * 1e6) for time in (SEPTEMBER, AUGUST)]
    assert np.array_equal(rows.features, [[1, 5], [np.nan, 6], [3, 7], [4, 8]], equal_nan=True)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"label": pa.array([0, 1, 2, 0], pa.int8())}, "neither 0 nor 1"),
        ({"label": pa.array([0, 1, None, 0], pa.int8())}, "null"),
        ({"entity": None}, "columns"),
        ({"view.x": None, "view.y": None}, "1 to 512 features"),
        ({"view.x": pa.array([1.0, float("inf"), 3.0, 4.0])}, "view.x has infinite values"),
        ({"entity": pa.array(["a", "a", "a", "b"])}, "two rows at one cut-off"),
    ],
)
def test_unusable_sets_are_refused(change: dict[str, object], complaint: str) -> None:
    assert complaint in refusal(stream(table(**change)))


def test_parts_must_agree_and_be_arrow() -> None:
    assert "not an Arrow stream" in refusal(b"nonsense")
    assert "different columns" in refusal(stream(table()), stream(table(**{"view.y": None})))
    assert "more than 3 rows" in refusal(stream(table()), max_rows=3)
    assert "no rows" in refusal(stream(table().slice(0, 0)))
