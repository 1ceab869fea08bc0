"""What a training process is given: how to train, and the rows, each part only what its reader may see.

Rows travel in memory files (memfd) that are never on a disk: one for the ranks, with the train and validation splits, and
one for the process that judges what they made, with the other splits but not the labels of the test.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import numpy as safetensors

from services.training.encoding import fit_encoding
from services.training.spec import TrainingSpec
from services.training.splits import Split

Tensors = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to train; the fields are those of ``TrainingSpec``, and ``heads`` is the number of label cut-offs."""

    world_size: int
    seed: int
    max_epochs: int
    batch_size: int
    learning_rate: float
    hidden_sizes: tuple[int, ...]
    dropout: float
    weight_decay: float
    heads: int

    @classmethod
    def of(cls, spec: TrainingSpec, heads: int) -> Recipe:
        """Return the recipe of a specification."""
        names = {field.name for field in dataclasses.fields(cls)} - {"heads"}
        return cls(heads=heads, **{name: getattr(spec, name) for name in names})

    def encode(self) -> str:
        """Return JSON on one line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, line: str) -> Recipe:
        """Return the recipe in a line of JSON."""
        content = json.loads(line)
        return cls(**content | {"hidden_sizes": tuple(content["hidden_sizes"])})


def for_ranks(splits: Mapping[str, Split]) -> Tensors:
    """Return what the ranks train on: the encoding, fitted to the train split, and the train and validation splits."""
    train, validation = splits["train"], splits["validation"]
    return {
        **fit_encoding(train.features).tensors(),
        "train.features": train.features,
        "train.labels": train.labels,
        "train.heads": train.heads,
        "validation.features": validation.features,
        "validation.labels": validation.labels,
    }


def for_judging(splits: Mapping[str, Split], mutable_fractions: npt.NDArray[np.float64]) -> Tensors:
    """Return what the trained model is calibrated and measured on; the labels of the test split stay behind."""
    return {
        "calibration.features": splits["calibration"].features,
        "calibration.labels": splits["calibration"].labels,
        "gate.features": splits["gate"].features,
        "gate.labels": splits["gate"].labels,
        "test.features": splits["test"].features,
        "mutable_fractions": mutable_fractions,
    }


def open_memory(name: str) -> int:
    """Return the descriptor of a new memory file that children may inherit."""
    return os.memfd_create(name)


def write_tensors(descriptor: int, tensors: Mapping[str, npt.NDArray[Any]]) -> None:
    """Write tensors as the whole content of a memory file."""
    content = safetensors.save({name: np.ascontiguousarray(array) for name, array in tensors.items()})
    os.ftruncate(descriptor, 0)
    written = 0
    with memoryview(content) as view:
        while written < len(content):
            written += os.pwrite(descriptor, view[written:], written)


def read_tensors(descriptor: int) -> Tensors:
    """Return the tensors in a memory file.

    Raises:
        ValueError: it does not hold any.
    """
    size, parts = os.fstat(descriptor).st_size, []
    read = 0
    while read < size:
        parts.append(os.pread(descriptor, min(size - read, 1 << 30), read))
        read += len(parts[-1])
    try:
        return dict(safetensors.load(b"".join(parts)))
    except Exception as error:  # the safetensors error is not exported by a stable name
        raise ValueError("the memory file holds no tensors") from error
