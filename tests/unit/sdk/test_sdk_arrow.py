"""Arrow tables as messages."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.sdk import arrow


@given(st.lists(st.text(max_size=60), max_size=200), st.integers(2_000, 8_000))
def test_messages_hold_the_rows_in_order_and_keep_the_limit(values: list[str], limit: int) -> None:
    table = pa.table({"value": pa.array(values, pa.string())})
    messages = list(arrow.to_messages(table, limit))
    assert all(len(message) <= limit for message in messages)
    assert pa.concat_tables([arrow.from_message(message) for message in messages]).equals(table)


def test_an_empty_table_still_says_its_schema() -> None:
    table = pa.table({"value": pa.array([], pa.int64())})
    [message] = arrow.to_messages(table)
    assert arrow.from_message(message).schema == table.schema


def test_a_slice_sends_its_own_rows_only() -> None:
    table = pa.table({"value": pa.array(range(1_000_000), pa.int64())}).slice(10, 3)
    [message] = arrow.to_messages(table, 2_000)
    assert arrow.from_message(message)["value"].to_pylist() == [10, 11, 12]


def test_a_row_larger_than_a_message_is_refused() -> None:
    with pytest.raises(ValueError, match="one row takes"):
        list(arrow.to_messages(pa.table({"value": ["x" * 5_000]}), 2_000))
