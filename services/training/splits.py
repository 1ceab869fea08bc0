"""Splits by entity: who trains, who decides when to stop, who calibrates, who gates, and who is never seen.

Rules:

1. All rows of an entity, at every cut-off, are in one split.
2. Only the train split uses every cut-off. The others judge the model, so they hold the newest cut-off alone: that is the
   question the model is asked in service.
3. The split of an entity follows from the seed and a keyed hash of the values of its newest row, not of its pseudonym:
   pseudonyms are made with a secret of each installation, and with them the same data and seed would give another model
   everywhere. Values are hashed as float32, so that a last digit that depends on the order of a sum decides nothing.
   Entities with equal values share a split, which also keeps copies of training rows out of the test.
4. Rows are ordered by such hashes too, so the order in which they arrive decides nothing either.
5. Nothing reads the labels of the test split but the final measurement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hedgerow.errors import FailedPreconditionError
from services.training.training_set import TrainingRows

# The test split is large because the standard error of an AUC of 0.78 is 0.007 with 7,500 rows, a fifth of them positive.
SHARES: Final[Mapping[str, float]] = {
    "train": 0.45,
    "validation": 0.08,
    "calibration": 0.07,
    "gate": 0.15,
    "test": 0.25,
}
MIN_PER_CLASS: Final = 10
_DIGEST_BYTES: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Rows of one split.

    Attributes:
        rows: indexes into the training rows, shape [n].
        features: shape [n, features].
        labels: 0.0 or 1.0, float32, shape [n].
        heads: cut-off of each row, 0 for the newest, shape [n].
    """

    rows: npt.NDArray[np.int64]
    features: npt.NDArray[np.float64]
    labels: npt.NDArray[np.float32]
    heads: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Rows."""
        return len(self.rows)


def split_rows(rows: TrainingRows, seed: int) -> dict[str, Split]:
    """Return the splits by name, as in ``SHARES``.

    Raises:
        FailedPreconditionError: a split has fewer than ``MIN_PER_CLASS`` positives or negatives.
    """
    cutoffs = np.asarray(rows.newest_first())
    heads = len(cutoffs) - 1 - np.searchsorted(cutoffs[::-1], rows.as_of_us)
    own, keys = _hashes(rows, seed)
    order = np.lexsort((rows.labels, own, keys, heads))
    # The first 53 bits of a digest as a number of [0, 1), all of them exact in a float64.
    place = (keys.view(">u8").reshape(-1, _DIGEST_BYTES // 8)[:, 0] >> np.uint64(11)) / 2.0**53
    edges = np.cumsum(list(SHARES.values()))[:-1]
    number = np.searchsorted(edges, place, side="right")
    splits = {}
    for position, name in enumerate(SHARES):
        chosen = (number == position) & ((heads == 0) | (name == "train"))
        index = order[chosen[order]]
        splits[name] = Split(index, rows.features[index], rows.labels[index].astype(np.float32), heads[index])
        _check(name, splits[name])
    return splits


def _hashes(rows: TrainingRows, seed: int) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.bytes_]]:
    """Return the keyed hash of each row's own values, and of the newest values of its entity, shape [n] of 16 bytes."""
    key = seed.to_bytes(8, "big", signed=True)
    values = np.ascontiguousarray(rows.features, dtype=np.float32)
    digests = [hashlib.blake2b(row.tobytes(), key=key, digest_size=_DIGEST_BYTES).digest() for row in values]
    own = np.frombuffer(b"".join(digests), dtype=f"S{_DIGEST_BYTES}")
    newest_first = np.lexsort((-rows.as_of_us, rows.entities))
    _, first, entity = np.unique(rows.entities[newest_first], return_index=True, return_inverse=True)
    newest = np.empty_like(own)
    newest[newest_first] = own[newest_first[first]][entity]
    return own, newest


def _check(name: str, split: Split) -> None:
    positives = int(split.labels.sum())
    if min(positives, len(split) - positives) < MIN_PER_CLASS:
        raise FailedPreconditionError(
            f"the training set is too small: its {name} split has {positives} positives and {len(split) - positives}"
            f" negatives at the newest cut-off; at least {MIN_PER_CLASS} of each are needed"
        )
