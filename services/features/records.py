"""What the store keeps of long work: training sets and materializations, and their states."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from services.features.training_set import Cutoff


class State(enum.IntEnum):
    """Where long work stands; numbers as in the contract. RUNNING leads to one of the others, which are final."""

    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class TrainingSetRecord:
    """A training set without its rows; `sources` are `datasets/{dataset}@{version}`."""

    training_set_id: str
    service_id: str
    cutoffs: tuple[Cutoff, ...]
    purposes: tuple[str, ...]
    tags: tuple[str, ...]
    sources: tuple[str, ...]
    create_us: int
    state: State = State.RUNNING
    row_count: int = 0
    digest: str = ""
    error: str = ""

    @property
    def name(self) -> str:
        """`trainingSets/{training_set}`."""
        return f"trainingSets/{self.training_set_id}"


@dataclass(frozen=True, slots=True)
class MaterializationRecord:
    """A write of the newest values of a feature service to the online store."""

    materialization_id: str
    service_id: str
    as_of_us: int
    state: State = State.RUNNING
    entity_count: int = 0
    rejected_count: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        """`materializations/{materialization}`."""
        return f"materializations/{self.materialization_id}"
