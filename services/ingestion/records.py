"""Checks record batches against a contract: all columns at a time, never row by row.

What is wrong with the whole batch (a missing or unknown column, a wrong type, a time without zone) refuses the append.
What is wrong with a row puts that row in quarantine with reasons that name columns and never hold a value. Identifiers
become pseudonyms before a row goes either way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from libs.lake import ARROW_TYPES, pseudonym_column
from services.ingestion.arrow_stream import expanded_bytes, invalid, is_text, read_rows, read_schema
from services.ingestion.contract import Column, ColumnType, Contract

MAX_NAMED = 10
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
YEAR_1_MICROS, YEAR_9999_MICROS = -62_135_596_800_000_000, 253_402_300_799_999_999
_MICROS = {"s": 1_000_000, "ms": 1_000, "us": 1}
_NANOS_PER_MICRO = 1_000

Fault = tuple[pa.Array, str]
"""A boolean per row without nulls, and what is wrong where it is true."""


@dataclass(frozen=True)
class QuarantinedRow:
    """A row that broke the contract: its place in the append, why, and its content as JSON with pseudonyms."""

    row_index: int
    reason: str
    content: bytes


@dataclass(frozen=True)
class Checked:
    """Rows that keep the contract, in its schema, and those that do not."""

    rows: pa.Table
    quarantined: list[QuarantinedRow]


def decode(ipc: bytes, contract: Contract, *, max_rows: int) -> tuple[pa.Table, int]:
    """Return the rows of an Arrow IPC stream in the contract's column order, and the bytes they will take.

    Raises:
        InvalidArgumentError: the stream is malformed or its columns are not the contract's (ARROW_INVALID).
    """
    _check_schema(read_schema(ipc), contract)
    table = read_rows(ipc, max_rows).select([column.name for column in contract.columns])
    return table, expanded_bytes(table)


def check(table: pa.Table, contract: Contract, *, pseudonym_key: bytes, first_row: int) -> Checked:
    """Split rows into those that keep the contract and those that do not.

    Args:
        table: from ``decode``.
        contract: of the dataset.
        pseudonym_key: of the contract's domain; unused when no column is pseudonymized.
        first_row: place of the first row in the append.
    """
    kept: list[pa.Array] = []
    shown: list[pa.Array] = []
    faults: list[Fault] = []
    for column in contract.columns:
        source = _one_array(table.column(column.name))
        values, column_faults = _CASTS[_type(column)](source)
        column_faults += _common_faults(column, values, source, contract)
        if column.pseudonymize:
            values = pseudonym_column(pseudonym_key, values)
        faults += [(mask, f"column {column.name}: {what}") for mask, what in column_faults]
        kept.append(values)
        shown.append(values if column.pseudonymize or column.type is ColumnType.STRING else source)
    faults = [(mask, what) for mask, what in faults if mask.true_count]
    schema = contract.schema()
    if not faults:
        return Checked(pa.Table.from_arrays(kept, schema=schema), [])
    bad = faults[0][0]
    for mask, _ in faults[1:]:
        bad = pc.or_(bad, mask)
    good = pc.invert(bad)
    rows = pa.Table.from_arrays([values.filter(good) for values in kept], schema=schema)
    return Checked(rows, list(_quarantined(bad, faults, dict(zip(schema.names, shown, strict=True)), first_row)))


def _check_schema(schema: pa.Schema, contract: Contract) -> None:
    names = [column.name for column in contract.columns]
    fields: dict[str, str] = {}
    for name in [n for n in schema.names if n not in names][:MAX_NAMED]:
        fields[f"arrow_ipc.{name[:64]}"] = "the contract has no such column; leave it out or create another dataset"
    for name in names:
        count = schema.names.count(name)
        if count != 1:
            fields[f"arrow_ipc.{name}"] = "expected exactly once, found " + ("none" if count == 0 else str(count))
    for column in contract.columns:
        if f"arrow_ipc.{column.name}" not in fields:
            fault = _type_fault(_type(column), schema.field(column.name).type)
            if fault:
                fields[f"arrow_ipc.{column.name}"] = fault
    if fields:
        path, fault = next(iter(fields.items()))
        raise invalid(f"the columns are not those of the contract: {path}: {fault}", fields)


def _type_fault(wanted: ColumnType, found: pa.DataType) -> str:
    """Return why a column of a type cannot be taken as another, or nothing: exact conversions only."""
    if pa.types.is_null(found):
        return ""
    if wanted is ColumnType.TIMESTAMP and pa.types.is_timestamp(found) and found.tz is None:
        return "a time without a zone is refused; send timestamps with a time zone such as UTC"
    narrow_integer = pa.types.is_integer(found) and found.bit_width <= 32
    accepted = {
        ColumnType.STRING: is_text(found),
        ColumnType.INT64: pa.types.is_integer(found),
        ColumnType.FLOAT64: pa.types.is_floating(found) or narrow_integer,
        ColumnType.BOOL: pa.types.is_boolean(found),
        ColumnType.TIMESTAMP: pa.types.is_timestamp(found),
    }
    return "" if accepted[wanted] else f"expected {ARROW_TYPES[wanted]}, found {str(found)[:64]}"


def _type(column: Column) -> ColumnType:
    if column.type is None:
        raise ValueError("the contract was not validated")
    return column.type


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    combined = column.combine_chunks()
    return combined.combine_chunks() if isinstance(combined, pa.ChunkedArray) else combined


# ---- one cast per type: source array to values of the lake's type, null where they do not fit, and the faults


def _as_text(source: pa.Array) -> tuple[pa.Array, list[Fault]]:
    return source.cast(pa.string()), []


def _as_bool(source: pa.Array) -> tuple[pa.Array, list[Fault]]:
    return source.cast(pa.bool_()), []


def _as_int64(source: pa.Array) -> tuple[pa.Array, list[Fault]]:
    if not pa.types.is_uint64(source.type):
        return source.cast(pa.int64()), []
    too_big = _true_where(pc.greater(source, pa.scalar(INT64_MAX, pa.uint64())))
    return _null_where(too_big, source).cast(pa.int64()), [(too_big, "does not fit a signed 64-bit integer")]


def _as_float64(source: pa.Array) -> tuple[pa.Array, list[Fault]]:
    values = source.cast(pa.float64())
    return values, [(_true_where(pc.invert(pc.is_finite(values))), "not a finite number")]


def _as_timestamp(source: pa.Array) -> tuple[pa.Array, list[Fault]]:
    target = ARROW_TYPES[ColumnType.TIMESTAMP]
    if pa.types.is_null(source.type):
        return source.cast(target), []
    raw = source.cast(pa.int64())
    if source.type.unit == "ns":
        micros = pc.divide(raw, _NANOS_PER_MICRO)
        finer = _true_where(pc.not_equal(pc.multiply(micros, _NANOS_PER_MICRO), raw))
        return _null_where(finer, micros).cast(target), [(finer, "finer than a microsecond")]
    per_unit = _MICROS[source.type.unit]
    low, high = -(-YEAR_1_MICROS // per_unit), YEAR_9999_MICROS // per_unit
    outside = _true_where(pc.or_(pc.less(raw, low), pc.greater(raw, high)))
    micros = pc.multiply(_null_where(outside, raw), per_unit)
    return micros.cast(target), [(outside, "outside the years 1 to 9999")]


_CASTS: dict[ColumnType, Callable[[pa.Array], tuple[pa.Array, list[Fault]]]] = {
    ColumnType.STRING: _as_text,
    ColumnType.BOOL: _as_bool,
    ColumnType.INT64: _as_int64,
    ColumnType.FLOAT64: _as_float64,
    ColumnType.TIMESTAMP: _as_timestamp,
}


def _common_faults(column: Column, values: pa.Array, source: pa.Array, contract: Contract) -> list[Fault]:
    faults: list[Fault] = []
    names_entity = column.name in contract.key_columns or column.name == contract.subject_column
    if not column.nullable:
        # Asked of a number's source, so that one that did not fit is not called missing as well; but of a text's
        # values, because a dictionary may hide its nulls.
        what = "a key is null" if column.name in contract.key_columns else "null where none is allowed"
        faults.append(((values if is_text(source.type) else source).is_null(), what))
    if names_entity and column.type is ColumnType.STRING:
        faults.append((_true_where(pc.equal(values, "")), "a key is empty"))
    if column.minimum is not None:
        faults.append((_beyond(values, column.minimum, pc.less, math.ceil), "below the contract's minimum"))
    if column.maximum is not None:
        faults.append((_beyond(values, column.maximum, pc.greater, math.floor), "above the contract's maximum"))
    return faults


def _beyond(
    values: pa.Array,
    bound: float,
    compare: Callable[[pa.Array, object], pa.Array],
    to_integer: Callable[[float], int],
) -> pa.Array:
    """Return where values lie beyond a bound; integers are compared as integers, exactly."""
    if not pa.types.is_integer(values.type):
        return _true_where(compare(values, bound))
    limit = to_integer(bound)
    if INT64_MIN <= limit <= INT64_MAX:
        return _true_where(compare(values, limit))
    beyond_all = (limit > INT64_MAX) == (compare is pc.less)
    return values.is_valid() if beyond_all else _true_where(pa.nulls(len(values), pa.bool_()))


def _true_where(mask: pa.Array) -> pa.BooleanArray:
    return pc.fill_null(mask, False)


def _null_where(mask: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(mask, pa.scalar(None, values.type), values)


# ---- quarantine


def _quarantined(
    bad: pa.Array, faults: list[Fault], columns: dict[str, pa.Array], first_row: int
) -> Iterator[QuarantinedRow]:
    places = pc.indices_nonzero(bad)
    reasons: list[list[str]] = [[] for _ in range(len(places))]
    for mask, what in faults:
        for i in pc.indices_nonzero(mask.take(places)).to_pylist():
            reasons[i].append(what)
    contents = {name: _json_values(values.take(places)) for name, values in columns.items()}
    for i, place in enumerate(places.to_pylist()):
        content = json.dumps({name: values[i] for name, values in contents.items()}).encode()
        yield QuarantinedRow(first_row + place, "; ".join(reasons[i]), content)


def _json_values(values: pa.Array) -> list[object]:
    """Return values for JSON; a time becomes its count and unit, since it may lie outside any calendar."""
    if pa.types.is_timestamp(values.type):
        unit = values.type.unit
        return [None if count is None else f"{count}{unit}" for count in values.cast(pa.int64()).to_pylist()]
    return list(values.to_pylist())
