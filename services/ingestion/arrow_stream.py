"""Decodes Arrow IPC streams from outside: nothing is allocated beyond what the bytes themselves hold.

A stream of a few bytes can claim much: compressed buffers, run-length encodings, columns of nulls, and views or
dictionaries that point at one long text many times. The schema is checked first, compression is refused, and
``expanded_bytes`` says what the rows will take before they are copied out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hedgerow.errors import InvalidArgumentError

_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_FIXED_WIDTH = 8
_FAULTS = (pa.ArrowException, OSError, ValueError, KeyError, struct.error, MemoryError)
"""What pyarrow raises for malformed bytes, by the place of the fault."""


def read_schema(ipc: bytes) -> pa.Schema:
    """Return the schema of a stream without reading its batches.

    Raises:
        InvalidArgumentError: the bytes are not a complete Arrow IPC stream (ARROW_INVALID).
    """
    if not ipc.endswith(_END_OF_STREAM):
        raise invalid("the Arrow stream has no end marker; close the writer before sending")
    try:
        with pa.ipc.open_stream(pa.py_buffer(ipc)) as reader:
            return reader.schema
    except _FAULTS as error:
        raise invalid("the bytes are not an Arrow IPC stream") from error


def read_rows(ipc: bytes, max_rows: int) -> pa.Table:
    """Return the rows of a stream whose schema is one of flat columns, fully validated.

    Args:
        ipc: as received; the table refers to it.
        max_rows: more are refused before they are read.

    Raises:
        InvalidArgumentError: malformed, compressed, or more rows (ARROW_INVALID).
    """
    try:
        rows = 0
        for length, compressed in _batches(ipc):
            if compressed:
                raise invalid("compressed Arrow buffers are refused; write the stream without compression")
            rows += length
            if not 0 <= length <= max_rows or rows > max_rows:
                raise invalid(f"an Arrow stream holds more than {max_rows} rows; send several")
        with pa.ipc.open_stream(pa.py_buffer(ipc)) as reader:
            table = reader.read_all()
        table.validate(full=True)
    except InvalidArgumentError:
        raise
    except _FAULTS as error:
        raise invalid("the Arrow stream is malformed") from error
    return table


def expanded_bytes(table: pa.Table) -> int:
    """Return the bytes that the columns take as plain 64-bit values and text."""
    return sum(
        _FIXED_WIDTH * table.num_rows + sum(_text_bytes(chunk) for chunk in column.chunks) for column in table.columns
    )


def is_text(kind: pa.DataType) -> bool:
    """Return whether values of a type are text, in any of Arrow's layouts but run-length."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def invalid(message: str, fields: dict[str, str] | None = None) -> InvalidArgumentError:
    """Return the error of a stream that cannot be taken in."""
    return InvalidArgumentError(message, reason="ARROW_INVALID", fields=fields or {"arrow_ipc": message})


def _text_bytes(array: pa.Array) -> int:
    if not is_text(array.type) or len(array) == 0:
        return 0
    if pa.types.is_dictionary(array.type):
        lengths = pc.binary_length(array.dictionary.cast(pa.large_string())).cast(pa.int64())
        return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
    if pa.types.is_string_view(array.type):
        # A view is four 32-bit words, the first its length.
        views = np.frombuffer(array.buffers()[1], dtype=np.int32)[4 * array.offset :]
        return int(views[: 4 * len(array) : 4].astype(np.int64).sum())
    return int(pc.sum(pc.binary_length(array).cast(pa.int64())).as_py() or 0)


def _batches(ipc: bytes) -> Iterator[tuple[int, bool]]:
    """Yield (rows, whether compressed) of each batch, dictionaries included, from the message headers alone."""
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(ipc)):
        if message.type not in ("record batch", "dictionary"):
            continue
        # The header is a FlatBuffer (Message.fbs of the Arrow format), which pyarrow has verified.
        header = message.metadata.to_pybytes()
        batch = _child(header, _child(header, 0, -1), 2)
        if message.type == "dictionary":
            batch = _child(header, batch, 1)
        length_at = _field(header, batch, 0)
        length = struct.unpack_from("<q", header, length_at)[0] if length_at else 0
        yield length, bool(_field(header, batch, 3))


def _child(buffer: bytes, table: int, slot: int) -> int:
    """Return where a table's child table starts; the root of the buffer for slot -1."""
    at = 0 if slot < 0 else _field(buffer, table, slot)
    return int(at + struct.unpack_from("<I", buffer, at)[0])


def _field(buffer: bytes, table: int, slot: int) -> int:
    """Return where a table's field is, or 0 when it is absent."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    size = struct.unpack_from("<H", buffer, vtable)[0]
    entry = 4 + 2 * slot
    offset = struct.unpack_from("<H", buffer, vtable + entry)[0] if entry < size else 0
    return table + offset if offset else 0
