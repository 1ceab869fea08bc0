"""Arrow tables as messages: each message is a complete IPC stream below a size limit."""

from collections.abc import Iterator

import pyarrow as pa

MESSAGE_BYTES = 4 * 1024 * 1024


def to_messages(table: pa.Table, limit: int = MESSAGE_BYTES) -> Iterator[bytes]:
    """Yields the rows of a table as IPC streams of at most `limit` bytes each; an empty table gives one.

    Raises:
        ValueError: one row alone is larger than the limit.
    """
    rows = max(1, table.num_rows * limit // max(table.nbytes * 5 // 4, 1))
    for start in range(0, max(table.num_rows, 1), rows):
        yield from _split(table.slice(start, rows), limit)


def _split(table: pa.Table, limit: int) -> Iterator[bytes]:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    message = sink.getvalue().to_pybytes()
    if len(message) <= limit:
        yield message
    elif table.num_rows <= 1:
        raise ValueError(f"one row takes {len(message)} bytes, more than a message of {limit} bytes holds")
    else:
        half = table.num_rows // 2
        yield from _split(table.slice(0, half), limit)
        yield from _split(table.slice(half), limit)


def from_message(message: bytes) -> pa.Table:
    """Returns the table in one IPC stream."""
    with pa.ipc.open_stream(message) as reader:
        return reader.read_all()
