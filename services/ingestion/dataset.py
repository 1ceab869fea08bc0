"""A dataset, its appends and its quarantined rows, as the store keeps them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hedgerow.errors import InvalidArgumentError
from services.ingestion.contract import Contract

_DATASET_ID = re.compile(r"[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True)
class Dataset:
    """A dataset.

    Attributes:
        id: as in ``datasets/{id}``.
        contract: never changes.
        quarantine_key: the wrapped data key of its quarantine.
        create_us: microseconds since 1970 UTC.
    """

    id: str
    contract: Contract
    quarantine_key: bytes
    create_us: int


@dataclass(frozen=True)
class Append:
    """What one append did: the version that holds its rows, and how many went where."""

    version: int
    row_count: int
    quarantined_row_count: int


@dataclass(frozen=True)
class SealedRow:
    """A quarantined row as stored: the content is sealed."""

    row_index: int
    reason: str
    content: bytes


@dataclass(frozen=True)
class QuarantineEntry:
    """A quarantined row as listed. ``id`` grows with arrival."""

    id: int
    row_index: int
    reason: str
    create_us: int
    request_id: str


def check_dataset_id(value: str) -> str:
    """Return the id of a new dataset.

    Raises:
        InvalidArgumentError: it is not 1 to 63 of ``[a-z0-9_]`` starting with a letter.
    """
    if not _DATASET_ID.fullmatch(value):
        what = "expected 1 to 63 of [a-z0-9_], starting with a letter"
        raise InvalidArgumentError(f"dataset_id is not an id: {what}", fields={"dataset_id": what})
    return value
