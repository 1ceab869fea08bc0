"""Dataset contracts: what the records of a dataset must be, and what they may be used for."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from hedgerow.errors import InvalidArgumentError, PermissionDeniedError
from libs.lake import TableLayout, arrow_schema

MAX_COLUMNS = 1000
MAX_TEXT = 2000
MAX_PURPOSE = 63
MAX_RETENTION_DAYS = 36_500
MAX_KEY_GROUPS = 60
"""What one grant can cover, less the footer's key."""
TAGS = ("pii", "sensitive")
LEGAL_BASES = (
    "consent",
    "contract",
    "legal_obligation",
    "vital_interests",
    "public_task",
    "legitimate_interests",
)
"""The six of GDPR Article 6(1), a to f."""

_COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WORD = re.compile(r"[a-z][a-z0-9_]{0,62}")
_MAX_KEY_ID = 63


class ColumnType(enum.StrEnum):
    """Types of values, by the lake's words for them."""

    STRING = "string"
    INT64 = "int64"
    FLOAT64 = "float64"
    BOOL = "bool"
    TIMESTAMP = "timestamp"


_NUMBERS = (ColumnType.INT64, ColumnType.FLOAT64)
_KEY_TYPES = (ColumnType.STRING, ColumnType.INT64)


@dataclass(frozen=True)
class Column:
    """One column. ``purposes`` replaces the contract's for this column; empty means the contract's."""

    name: str
    type: ColumnType | None
    nullable: bool = False
    tags: tuple[str, ...] = ()
    pseudonymize: bool = False
    outcome: bool = False
    minimum: float | None = None
    maximum: float | None = None
    description: str = ""
    purposes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contract:
    """What the records of a dataset must be and may be used for. Validate one with ``validate``."""

    columns: tuple[Column, ...]
    key_columns: tuple[str, ...]
    event_time_column: str
    purposes: tuple[str, ...]
    legal_basis: str
    retention_days: int
    known_time_column: str = ""
    subject_column: str = ""
    pseudonym_domain: str = ""
    description: str = ""

    def column(self, name: str) -> Column | None:
        """Return the column of a name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    @property
    def all_purposes(self) -> frozenset[str]:
        """What some column of the dataset may be used for."""
        return frozenset(self.purposes).union(*(column.purposes for column in self.columns))

    @property
    def tags(self) -> frozenset[str]:
        """Tags that some column bears."""
        return frozenset(tag for column in self.columns for tag in column.tags)

    def purposes_of(self, column: Column) -> frozenset[str]:
        """Return what a column may be used for.

        Keys and times say whose row it is and when it was true: without them no column can be used, so they serve every
        purpose that the dataset serves, unless they have purposes of their own.
        """
        if column.purposes:
            return frozenset(column.purposes)
        places_rows = (*self.key_columns, self.event_time_column, self.known_time_column)
        return self.all_purposes if column.name in places_rows else frozenset(self.purposes)

    def key_group(self, column: Column) -> str:
        """Return what a column's key is for: its tags, and its purposes where they are not the contract's.

        Columns that different purposes may read never share a key, so that a grant opens no more than was decided.
        """
        group = "-".join(sorted(column.tags)) or "plain"
        purposes = self.purposes_of(column)
        if purposes != frozenset(self.purposes):
            group += "-" + _digest(",".join(sorted(purposes)), 8)
        return group

    def columns_for(self, purpose: str, wanted: Sequence[str]) -> tuple[Column, ...]:
        """Return the columns that a reader gets: those wanted, or all that the purpose allows when none is named.

        Raises:
            InvalidArgumentError: a wanted column does not exist or is named twice.
            PermissionDeniedError: the purpose does not allow a wanted column, or allows none (PURPOSE_NOT_PERMITTED).
        """
        faults = {
            f"columns[{i}]": "expected a column of the contract, each once"
            for i, name in enumerate(wanted)
            if self.column(name) is None or name in wanted[:i]
        }
        if faults:
            raise InvalidArgumentError("columns names what the dataset does not have, or one twice", fields=faults)
        allowed = tuple(column for column in self.columns if purpose in self.purposes_of(column))
        chosen = tuple(column for column in self.columns if column.name in wanted)
        refused = [column.name for column in chosen if column not in allowed]
        if refused or not allowed:
            what = ", ".join(refused) or "any column"
            raise PermissionDeniedError(
                f"the purpose {purpose[:MAX_PURPOSE]!r} does not allow {what}; state one that the contract names",
                reason="PURPOSE_NOT_PERMITTED",
                metadata={"purpose": purpose[:MAX_PURPOSE], "columns": ",".join(refused)},
            )
        return chosen or allowed

    def schema(self) -> pa.Schema:
        """Return the Arrow schema of rows that keep the contract."""
        return arrow_schema((c.name, str(c.type), c.nullable) for c in self.columns)

    def layout(self, dataset_id: str) -> TableLayout:
        """Return how the dataset's files are sealed: one key for the footer and one per key group."""
        keys = {column.name: lake_key(dataset_id, self.key_group(column)) for column in self.columns}
        return TableLayout(self.schema(), lake_key(dataset_id, "footer"), keys)

    def to_json(self) -> str:
        """Return the canonical JSON form."""
        return json.dumps(dataclasses.asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Contract:
        """Return the contract that ``to_json`` wrote."""
        content: dict[str, Any] = json.loads(text)
        content["columns"] = tuple(_column_from(column) for column in content["columns"])
        return cls(**_with_tuples(content))


def _column_from(content: dict[str, Any]) -> Column:
    content["type"] = ColumnType(content["type"])
    return Column(**_with_tuples(content))


def _with_tuples(content: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


def lake_key(dataset_id: str, group: str) -> str:
    """Return the name of the key that seals a group of a dataset's columns, at most 63 characters after ``keys/``."""
    key = f"ingestion-lake-{dataset_id}-{group}"
    if len(key) > _MAX_KEY_ID:
        key = f"ingestion-lake-{dataset_id[:10]}-{_digest(dataset_id, 12)}-{group}"
    return f"keys/{key}"


def _digest(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def validate(contract: Contract) -> None:
    """Check a contract.

    Raises:
        InvalidArgumentError: with one entry per fault, by field path under ``contract``.
    """
    faults: dict[str, str] = {}
    _check_columns(contract, faults)
    _check_roles(contract, faults)
    _check_use(contract, faults)
    if faults:
        path, fault = next(iter(faults.items()))
        raise InvalidArgumentError(f"the contract does not hold: {path}: {fault}", fields=faults)


def _check_columns(contract: Contract, faults: dict[str, str]) -> None:
    if not 1 <= len(contract.columns) <= MAX_COLUMNS:
        faults["contract.columns"] = f"expected 1 to {MAX_COLUMNS} columns"
    if len({contract.key_group(column) for column in contract.columns}) > MAX_KEY_GROUPS:
        faults["contract.columns"] = f"expected at most {MAX_KEY_GROUPS} different combinations of tags and purposes"
    seen: set[str] = set()
    for index, column in enumerate(contract.columns):
        path = f"contract.columns[{index}]"
        if not _COLUMN_NAME.fullmatch(column.name):
            faults[f"{path}.name"] = "expected 1 to 64 of [a-z0-9_], starting with a letter"
        elif column.name in seen:
            faults[f"{path}.name"] = "another column has this name"
        seen.add(column.name)
        if column.type is None:
            faults[f"{path}.type"] = "expected one of " + ", ".join(ColumnType)
        if not set(column.tags) <= set(TAGS) or len(set(column.tags)) != len(column.tags):
            faults[f"{path}.tags"] = "expected each of " + ", ".join(TAGS) + " at most once"
        if column.pseudonymize and column.type is not ColumnType.STRING:
            faults[f"{path}.pseudonymize"] = "only a string column can be pseudonymized"
        _check_words(column.purposes, f"{path}.purposes", faults)
        _check_range(column, path, faults)
        _check_length(column.description, f"{path}.description", faults)


def _check_range(column: Column, path: str, faults: dict[str, str]) -> None:
    bounds = {"minimum": column.minimum, "maximum": column.maximum}
    for name, bound in bounds.items():
        if bound is None:
            continue
        if column.type not in _NUMBERS:
            faults[f"{path}.{name}"] = "only a number column has a range"
        elif not math.isfinite(bound):
            faults[f"{path}.{name}"] = "expected a finite number"
    if column.minimum is not None and column.maximum is not None and column.minimum > column.maximum:
        faults[f"{path}.maximum"] = "expected at least the minimum"


def _check_roles(contract: Contract, faults: dict[str, str]) -> None:
    if not contract.key_columns or len(set(contract.key_columns)) != len(contract.key_columns):
        faults["contract.key_columns"] = "expected at least one column, each once"
    for index, name in enumerate(contract.key_columns):
        _check_role(contract, name, f"contract.key_columns[{index}]", _KEY_TYPES, faults)
    times = (ColumnType.TIMESTAMP,)
    _check_role(contract, contract.event_time_column, "contract.event_time_column", times, faults)
    if contract.known_time_column:
        _check_role(contract, contract.known_time_column, "contract.known_time_column", times, faults)
    subject = contract.column(contract.subject_column)
    if contract.subject_column and (subject is None or not subject.pseudonymize or subject.nullable):
        # An erasure names its subject by pseudonym: a subject in clear, or none, could never be found.
        faults["contract.subject_column"] = "expected the name of a pseudonymized column that is not nullable"
    if not contract.subject_column and any("pii" in column.tags for column in contract.columns):
        faults["contract.subject_column"] = "expected the column that names the data subject, because a column is pii"


def _check_role(
    contract: Contract, name: str, path: str, types: tuple[ColumnType, ...], faults: dict[str, str]
) -> None:
    column = contract.column(name)
    if column is None:
        faults[path] = "expected the name of a column of this contract"
    elif column.type not in types:
        faults[path] = "expected a column of type " + " or ".join(types)
    elif column.nullable:
        faults[path] = "expected a column that is not nullable"
    elif column.outcome:
        faults[path] = "expected a column that is not an outcome"


def _check_use(contract: Contract, faults: dict[str, str]) -> None:
    if not contract.purposes:
        faults["contract.purposes"] = "expected at least one purpose, such as credit_risk"
    _check_words(contract.purposes, "contract.purposes", faults)
    if contract.legal_basis not in LEGAL_BASES:
        faults["contract.legal_basis"] = "expected one of " + ", ".join(LEGAL_BASES)
    if not 1 <= contract.retention_days <= MAX_RETENTION_DAYS:
        faults["contract.retention_days"] = f"expected 1 to {MAX_RETENTION_DAYS} days"
    if any(column.pseudonymize for column in contract.columns) and not contract.pseudonym_domain:
        faults["contract.pseudonym_domain"] = "expected a domain, because a column is pseudonymized"
    if contract.pseudonym_domain:
        _check_words((contract.pseudonym_domain,), "contract.pseudonym_domain", faults)
    _check_length(contract.description, "contract.description", faults)


def _check_words(words: Iterable[str], path: str, faults: dict[str, str]) -> None:
    words = tuple(words)
    if not all(_WORD.fullmatch(word) for word in words):
        faults[path] = "expected words of 1 to 63 of [a-z0-9_], starting with a letter"
    elif len(set(words)) != len(words):
        faults[path] = "expected each word once"


def _check_length(text: str, path: str, faults: dict[str, str]) -> None:
    if len(text) > MAX_TEXT:
        faults[path] = f"expected at most {MAX_TEXT} characters"
