"""The rows of a training set, from the Arrow streams that the features service sends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hedgerow.errors import FailedPreconditionError
from libs.artifact.manifest import MAX_FEATURES

MAX_ROWS: Final = 5_000_000
MAX_CUTOFFS: Final = 16
_KEYS: Final = ("entity", "as_of_time", "label")


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRows:
    """Labelled rows, one per entity and cut-off.

    Attributes:
        entities: pseudonyms, shape [n].
        as_of_us: label cut-offs in microseconds since 1970 UTC, shape [n].
        labels: 0 or 1, shape [n].
        features: raw values, NaN where missing, float64, shape [n, features].
        feature_names: in the order of the columns.
    """

    entities: npt.NDArray[np.str_]
    as_of_us: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int8]
    features: npt.NDArray[np.float64]
    feature_names: tuple[str, ...]

    def __len__(self) -> int:
        """Rows."""
        return len(self.labels)

    def newest_first(self) -> list[int]:
        """Return the cut-offs, the newest first."""
        return [int(cutoff) for cutoff in np.unique(self.as_of_us)[::-1]]


class TrainingSetReader:
    """Collects the parts of a training set within bounds."""

    def __init__(self, *, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows
        self._tables: list[pa.Table] = []
        self._rows = 0

    def add(self, arrow_ipc: bytes) -> None:
        """Take a complete Arrow IPC stream.

        Raises:
            FailedPreconditionError: it is malformed, differs from the first, or there are too many rows.
        """
        try:
            with pa.ipc.open_stream(arrow_ipc) as reader:
                table = reader.read_all()
        except pa.ArrowInvalid as error:
            raise _unusable("a part of it is not an Arrow stream") from error
        self._rows += table.num_rows
        if self._rows > self._max_rows:
            raise _unusable(f"it has more than {self._max_rows} rows")
        if self._tables and table.schema != self._tables[0].schema:
            raise _unusable("its parts have different columns")
        self._tables.append(table)

    def rows(self) -> TrainingRows:
        """Return all rows.

        Raises:
            FailedPreconditionError: a model cannot be trained on them, and why.
        """
        if self._rows == 0:
            raise _unusable("it has no rows")
        table = pa.concat_tables(self._tables)
        names = tuple(name for name in table.column_names if name not in _KEYS)
        if not set(_KEYS) <= set(table.column_names) or not 1 <= len(names) <= MAX_FEATURES:
            raise _unusable(f"it needs the columns {', '.join(_KEYS)} and 1 to {MAX_FEATURES} features")
        if any(table.column(key).null_count for key in _KEYS):
            raise _unusable("a key or label is null")
        rows = TrainingRows(
            entities=np.asarray(table.column("entity").to_pylist(), dtype=np.str_),
            as_of_us=table.column("as_of_time").cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy(),
            labels=table.column("label").cast(pa.int8()).to_numpy(),
            features=_matrix(table, names),
            feature_names=names,
        )
        _check(rows)
        return rows


def _matrix(table: pa.Table, names: Sequence[str]) -> npt.NDArray[np.float64]:
    """Return the feature columns side by side; a null is NaN."""
    matrix = np.empty((table.num_rows, len(names)))
    for position, name in enumerate(names):
        matrix[:, position] = table.column(name).cast(pa.float64()).to_numpy()
    return matrix


def _check(rows: TrainingRows) -> None:
    if not np.isin(rows.labels, (0, 1)).all():
        raise _unusable("a label is neither 0 nor 1")
    if np.isinf(rows.features).any():
        position = int(np.flatnonzero(np.isinf(rows.features).any(axis=0))[0])
        raise _unusable(f"the feature {rows.feature_names[position]} has infinite values; change its expression")
    if len(rows.newest_first()) > MAX_CUTOFFS:
        raise _unusable(f"it has more than {MAX_CUTOFFS} label cut-offs")
    keys = np.char.add(np.char.add(rows.entities, "@"), rows.as_of_us.astype(np.str_))
    if len(np.unique(keys)) < len(rows):
        raise _unusable("an entity has two rows at one cut-off")


def _unusable(why: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"the training set cannot be used: {why}")
