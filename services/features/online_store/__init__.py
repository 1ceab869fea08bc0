"""The online store: the newest feature values of each entity, sealed.

One value per entity and view. The engine behind it sees keyed hashes and sealed bytes only; `sealing` makes both, so
that every engine holds the same bytes. An engine MUST:

1. keep, of all values written for an entity and view, the one with the newest event time; of those with the same event
   time the one computed as of the newest time; whatever the order in which they were written;
2. show a value to every read that starts after the write returned, and never part of a write to one entity;
3. go on answering reads while a write or an erasure runs;
4. return no value that was sealed under another schema version, for another view or for another entity;
5. after an erasure hold no trace of the entity: no key, no sealed byte, not in freed space either.

`tests/conformance/stores/online_store_conformance.py` states them as tests, which every engine runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class StoredView:
    """What the store must know of a view.

    Attributes:
        view_id: the id of the view.
        schema_version: 8 bytes that change with the meaning of a value.
        width: features per value.
    """

    view_id: str
    schema_version: bytes
    width: int


@dataclass(frozen=True, slots=True)
class Values:
    """Values of one view for n entities.

    Attributes:
        values: float64 [n, width]; NaN is null.
        event_us: int64 [n]: newest event time behind each value, µs since 1970 UTC; in a read, the least int64 marks an
            entity without a value.
    """

    values: npt.NDArray[np.float64]
    event_us: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did.

    Attributes:
        values: values removed.
        objects_searched: files searched byte by byte afterwards.
        objects_rewritten: files rewritten without the entity.
        remaining: places that still hold the entity.
    """

    values: int
    objects_searched: int
    objects_rewritten: int
    remaining: int


class OnlineStore(Protocol):
    """The port. Methods are safe to call from several threads and block for as long as the engine needs."""

    def write(self, view: StoredView, entities: Sequence[str], values: Values, as_of_us: int) -> int:
        """Store values computed as of a time and return how many became the newest.

        Raises:
            ResourceExhaustedError: the store is full.
        """

    def read(self, view: StoredView, entities: Sequence[str]) -> Values:
        """Return the values of entities in the order asked; rows of NaN where there is none.

        Raises:
            DataLossError: stored bytes do not authenticate.
        """

    def erase(self, view_ids: Sequence[str], entity: str) -> Erased:
        """Remove an entity from the given views, and from freed space, and search what remains. Idempotent."""

    def close(self) -> None:
        """Release the engine."""
