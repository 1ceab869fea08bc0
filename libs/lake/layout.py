"""What a table's files look like: the schema, and the key that seals each column."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

ARROW_TYPES: Mapping[str, pa.DataType] = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "timestamp": pa.timestamp("us", tz="UTC"),
}
"""The column types of the lake, by the word a contract uses."""


def arrow_schema(columns: Iterable[tuple[str, str, bool]]) -> pa.Schema:
    """Return the Arrow schema of columns given as (name, type word, nullable)."""
    return pa.schema([pa.field(name, ARROW_TYPES[word], nullable=nullable) for name, word, nullable in columns])


@dataclass(frozen=True)
class TableLayout:
    """The schema of a table and the keys that seal its files.

    Attributes:
        schema: columns in order, types of ``ARROW_TYPES``.
        footer_key: name of the key that seals each file's footer; every reader needs it.
        column_keys: name of the key that seals each column. A column without one would be written in clear, so
            all must have one.
    """

    schema: pa.Schema
    footer_key: str
    column_keys: Mapping[str, str]

    def __post_init__(self) -> None:
        if set(self.column_keys) != set(self.schema.names):
            raise ValueError("every column of a table needs exactly one key")

    def columns_by_key(self) -> dict[str, list[str]]:
        """Return the columns that each key seals."""
        columns: dict[str, list[str]] = {}
        for name in self.schema.names:
            columns.setdefault(self.column_keys[name], []).append(name)
        return columns

    def keys_for(self, columns: Iterable[str]) -> list[str]:
        """Return the names of the keys that reading the columns takes, the footer's first."""
        return [self.footer_key, *sorted({self.column_keys[name] for name in columns} - {self.footer_key})]
