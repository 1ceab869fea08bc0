"""Small made-up data for the training tests."""

from __future__ import annotations

import dataclasses

import numpy as np

from services.training.gates import Gate, Outcome
from services.training.records import RunRecord, RunState, VersionRecord
from services.training.spec import GateBounds, ProtectedAttribute, TrainingSpec
from services.training.training_set import TrainingRows

AUGUST, SEPTEMBER = 1_125_446_400_000_000, 1_128_038_400_000_000
FEATURES = 5


def training_rows(entities: int = 1500, *, seed: int = 0, missing: bool = True) -> TrainingRows:
    """Rows of two cut-offs with a learnable label; feature 3 is constant, feature 4 sometimes missing."""
    rng = np.random.default_rng(seed)
    names = np.array([f"{number:032x}" for number in rng.permutation(entities)])
    features = rng.normal(size=(2 * entities, FEATURES)) * np.array([1.0, 100.0, 1.0, 0.0, 1.0])
    features[:, 2] = np.exp(3 * features[:, 2])
    if missing:
        features[rng.random(2 * entities) < 0.1, 4] = np.nan
    score = features[:, 0] + features[:, 1] / 100 - 1.2
    labels = (rng.random(2 * entities) < 1 / (1 + np.exp(-2 * score))).astype(np.int8)
    return TrainingRows(
        entities=np.concatenate([names, names]),
        as_of_us=np.repeat([AUGUST, SEPTEMBER], entities),
        labels=labels,
        features=features,
        feature_names=tuple(f"view.feature_{number}" for number in range(FEATURES)),
    )


BOUNDS = GateBounds(0.7, 0.1, 1000.0, 0.5, 0.3, 5)
SEX = ProtectedAttribute("protected.sex", "Sex", (), ("male", "female"))
AGE = ProtectedAttribute("protected.age", "Age", (30.0, 50.0), ("young", "middle", "old"))


def training_spec(**changes: object) -> TrainingSpec:
    """A valid specification."""
    content: dict[str, object] = {
        "training_set": "trainingSets/set1",
        "model": "models/credit",
        "world_size": 2,
        "seed": 7,
        "max_epochs": 3,
        "batch_size": 256,
        "learning_rate": 0.01,
        "hidden_sizes": (8, 4),
        "dropout": 0.1,
        "weight_decay": 0.01,
        "protected_feature_service": "featureServices/protected",
        "protected_attributes": (SEX, AGE),
        "gate_bounds": BOUNDS,
    }
    return TrainingSpec(**(content | changes))  # type: ignore[arg-type]


PASSED = Gate("accuracy", Outcome.PASSED, 0.8, 0.7, "auc", "fine")


def run(run_id: str, *, request_id: str = "", **changes: object) -> RunRecord:
    """A queued run."""
    record = RunRecord(
        run_id, "spiffe://x/user/ben", request_id or run_id, training_spec(), RunState.QUEUED, (), "", "", 5, 0
    )
    return dataclasses.replace(record, **changes)  # type: ignore[arg-type]


def version(
    number: int, *, model: str = "credit", gates: tuple[Gate, ...] = (PASSED,), digest: str = ""
) -> VersionRecord:
    """A version."""
    digest = digest or f"{number:064x}"
    return VersionRecord(model, number, "trainingRuns/r", b"{}", b"s", 1, b"w", digest, 3, gates, "{}", "# card", 9)
