"""What the features service knows of a dataset: its contract, reduced to what features depend on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


class ColumnType(StrEnum):
    """Types of contract columns."""

    STRING = "string"
    INT64 = "int64"
    FLOAT64 = "float64"
    BOOL = "bool"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """One column of a dataset contract.

    Attributes:
        purposes: the purposes that may read it, already resolved: its own, or else the contract's.
        outcome: usable in labels, never in features.
        pseudonymized: its values in the lake are pseudonyms.
    """

    name: str
    type: ColumnType
    purposes: frozenset[str]
    tags: frozenset[str] = frozenset()
    outcome: bool = False
    pseudonymized: bool = False

    def __post_init__(self) -> None:
        # Names are put into SQL; ingestion lets no other through, and neither does this.
        if not _NAME.fullmatch(self.name):
            raise ValueError("a column name must be 1 to 64 of [a-z0-9_], starting with a letter")


@dataclass(frozen=True, slots=True)
class SourceContract:
    """The contract of a dataset.

    Attributes:
        dataset: resource name, `datasets/{dataset}`.
        event_time_column: says when a row became true.
        known_time_column: says when a row became known; empty means the event time.
        subject_column: names the data subject; empty when the dataset has none.
        pseudonym_domain: where its pseudonyms are stable.
    """

    dataset: str
    columns: tuple[SourceColumn, ...]
    event_time_column: str
    known_time_column: str = ""
    subject_column: str = ""
    pseudonym_domain: str = ""

    def column(self, name: str) -> SourceColumn | None:
        """Return a column, or None."""
        return next((column for column in self.columns if column.name == name), None)

    def in_order(self, names: frozenset[str]) -> tuple[SourceColumn, ...]:
        """Return the named columns in the contract's order."""
        return tuple(column for column in self.columns if column.name in names)

    def to_json(self) -> dict[str, Any]:
        """Return a form for storage; `from_json` reads it."""
        return {
            "dataset": self.dataset,
            "event_time_column": self.event_time_column,
            "known_time_column": self.known_time_column,
            "subject_column": self.subject_column,
            "pseudonym_domain": self.pseudonym_domain,
            "columns": [
                {
                    "name": column.name,
                    "type": column.type.value,
                    "purposes": sorted(column.purposes),
                    "tags": sorted(column.tags),
                    "outcome": column.outcome,
                    "pseudonymized": column.pseudonymized,
                }
                for column in self.columns
            ],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> SourceContract:
        """Return the contract that `to_json` stored."""
        columns = tuple(
            SourceColumn(
                name=column["name"],
                type=ColumnType(column["type"]),
                purposes=frozenset(column["purposes"]),
                tags=frozenset(column["tags"]),
                outcome=column["outcome"],
                pseudonymized=column["pseudonymized"],
            )
            for column in stored["columns"]
        )
        return cls(**{**stored, "columns": columns})
