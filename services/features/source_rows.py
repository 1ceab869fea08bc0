"""Brings the rows of a snapshot into the one form that features are computed from.

Types come from the contract, never from the data, so a column of nulls is still an integer column. Times are instants:
whatever zone a column is written in, the instant counts, and a time without a zone is refused rather than guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from hedgerow.errors import FailedPreconditionError
from services.features.source import ColumnType, SourceContract

# Contract columns start with a letter, so these never meet one.
ENTITY = "_entity"
EVENT_TIME = "_event_time"
KNOWN_TIME = "_known_time"
# Times inside the engine are UTC without a zone: no time zone database, no session zone can change a result.
INSTANT = pa.timestamp("us")

_ARROW_TYPES: dict[ColumnType, pa.DataType] = {
    ColumnType.STRING: pa.string(),
    ColumnType.INT64: pa.int64(),
    ColumnType.FLOAT64: pa.float64(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.TIMESTAMP: INSTANT,
}


@dataclass(frozen=True, slots=True)
class Rejections:
    """Rows that cannot take part, by reason."""

    null_key: int = 0
    empty_key: int = 0
    null_time: int = 0

    @property
    def total(self) -> int:
        """All rejected rows."""
        return self.null_key + self.empty_key + self.null_time


def needed_columns(contract: SourceContract, entity_column: str, read: Iterable[str]) -> list[str]:
    """Return the columns to ask a snapshot for, in the contract's order."""
    placing = {entity_column, contract.event_time_column, contract.known_time_column} - {""}
    return [column.name for column in contract.in_order(frozenset(placing | set(read)))]


def arrow_schema(contract: SourceContract, read: frozenset[str]) -> pa.Schema:
    """Return the schema of `prepare_rows`: entity, event time, known time, then the columns read in contract order."""
    placing = [(ENTITY, pa.string()), (EVENT_TIME, INSTANT), (KNOWN_TIME, INSTANT)]
    return pa.schema([*placing, *((column.name, _ARROW_TYPES[column.type]) for column in contract.in_order(read))])


def prepare_rows(
    table: pa.Table, contract: SourceContract, entity_column: str, read: frozenset[str]
) -> tuple[pa.Table, Rejections]:
    """Return the rows that can take part, and how many cannot.

    Args:
        table: rows of a snapshot with at least `needed_columns`.
        contract: of the dataset.
        entity_column: names the entity.
        read: the columns that expressions read.

    Returns:
        A table of schema `arrow_schema(contract, read)`.

    Raises:
        FailedPreconditionError: a column is missing or is not of the contract's type.
    """
    event = _column(table, contract, contract.event_time_column)
    known = _column(table, contract, contract.known_time_column) if contract.known_time_column else event
    entity = _column(table, contract, entity_column).cast(pa.string())
    schema = arrow_schema(contract, read)
    columns = [entity, event, known, *(_column(table, contract, column.name) for column in contract.in_order(read))]
    rows = pa.table(columns, schema=schema)
    null_key = pc.is_null(entity)
    empty_key = pc.fill_null(pc.equal(entity, ""), False)
    null_time = pc.and_not(
        pc.or_(pc.is_null(event), pc.is_null(known)),
        pc.or_(null_key, empty_key),
    )
    bad = pc.or_(pc.or_(null_key, empty_key), null_time)
    rejections = Rejections(_count(null_key), _count(empty_key), _count(null_time))
    return (rows.filter(pc.invert(bad)) if rejections.total else rows), rejections


def _column(table: pa.Table, contract: SourceContract, name: str) -> pa.ChunkedArray:
    declared = contract.column(name)
    if declared is None or name not in table.column_names:
        raise FailedPreconditionError(f"the snapshot of {contract.dataset} lacks column {name!r}")
    values = table.column(name)
    target = _ARROW_TYPES[declared.type]
    if pa.types.is_null(values.type):
        return values.cast(target)
    if pa.types.is_timestamp(values.type):
        if values.type.tz is None:
            raise FailedPreconditionError(f"column {name!r} of {contract.dataset} holds times without a zone")
        # An instant is stored as UTC whatever zone the type names; giving it UTC first keeps the instant.
        values = values.cast(pa.timestamp("us", tz="UTC"))
    elif pa.types.is_floating(values.type) and declared.type is ColumnType.INT64:
        # Above 2^53 a float has already lost digits of an integer, and nothing here can tell.
        raise FailedPreconditionError(f"column {name!r} of {contract.dataset} holds floats, its contract says int64")
    try:
        values = values.cast(target)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        # The cause is not chained: its text may quote a value.
        raise FailedPreconditionError(
            f"column {name!r} of {contract.dataset} is not of the contract's type {declared.type}"
        ) from None
    # -0.0 and 0.0 are equal but not the same bytes; which of two equal rows wins must not show.
    return pc.add(values, 0.0) if declared.type is ColumnType.FLOAT64 else values


def _count(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)
