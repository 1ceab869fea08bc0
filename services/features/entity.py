"""How entities are named: from the key a caller gives to the form the lake and the stores hold.

A key is text on the wire. It is brought to the one canonical form of the declared type, so that `1` asked as text
meets `1` stored as an integer, or it is refused; it never misses in silence. Keys of a pseudonymized column then
become pseudonyms, as they did on arrival in the lake.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from services.features.expression import invalid
from services.features.source import ColumnType, SourceContract

MAX_KEYS = 1_000
MAX_KEY_LENGTH = 256
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class EntityKey:
    """How the entities of a view are named.

    Attributes:
        column: the column of the dataset.
        type: string or int64.
        domain: the pseudonym domain when the column is pseudonymized, else empty.
    """

    column: str
    type: ColumnType
    domain: str

    def __str__(self) -> str:
        pseudonyms = f" as pseudonyms of domain {self.domain}" if self.domain else ""
        return f"{self.column} ({self.type}){pseudonyms}"


def entity_key(contract: SourceContract, name: str, field: str) -> EntityKey:
    """Return the entity key that a column of a dataset makes.

    Raises:
        InvalidArgumentError: there is no such column, its type cannot name entities, it is an outcome, or the dataset
            has a data subject and this column is not the pseudonymized subject column: erasing a person could then
            not find what was computed about them.
    """
    column = contract.column(name)
    if column is None:
        raise invalid(field, f"{contract.dataset} has no column {name!r}")
    if column.type not in (ColumnType.STRING, ColumnType.INT64) or column.outcome:
        raise invalid(field, f"column {name!r} cannot name entities; expected a string or int64 column, no outcome")
    if contract.subject_column and not (name == contract.subject_column and column.pseudonymized):
        raise invalid(
            field,
            f"expected the subject column {contract.subject_column!r} of {contract.dataset}, pseudonymized, "
            "so that an erasure finds every value of a person",
        )
    return EntityKey(name, column.type, contract.pseudonym_domain if column.pseudonymized else "")


def canonical_keys(
    keys: Sequence[str],
    entity: EntityKey,
    pseudonyms: Callable[[list[str]], list[str]] | None,
    *,
    field: str = "entity_keys",
) -> list[str]:
    """Return the stored form of the keys, in order.

    Args:
        keys: as the sources know them.
        entity: how the entities are named.
        pseudonyms: maps raw keys to their pseudonyms; needed when the entity has a domain.

    Raises:
        InvalidArgumentError: too few or too many keys, or one that the type does not allow. Keys are never quoted.
    """
    if not 1 <= len(keys) <= MAX_KEYS:
        raise invalid(field, f"expected 1 to {MAX_KEYS} keys")
    form = _integer_form if entity.type is ColumnType.INT64 else _text_form
    stored = [form(key, field, index) for index, key in enumerate(keys)]
    if not entity.domain:
        return stored
    if pseudonyms is None:
        raise ValueError("entity keys of a pseudonymized column need the pseudonym function of its domain")
    return pseudonyms(stored)


def _text_form(key: str, field: str, index: int) -> str:
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise invalid(f"{field}[{index}]", f"expected 1 to {MAX_KEY_LENGTH} characters")
    return key


def _integer_form(key: str, field: str, index: int) -> str:
    if not _INTEGER.fullmatch(key) or int(key) not in _INT64:
        raise invalid(f"{field}[{index}]", "expected a 64-bit integer in decimal digits")
    return str(int(key))
