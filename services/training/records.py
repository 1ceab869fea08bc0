"""Training runs and model versions as they are kept."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from libs.artifact import Manifest
from services.training.gates import Gate
from services.training.spec import TrainingSpec


class RunState(enum.StrEnum):
    """Where a run stands; the states of the contract."""

    QUEUED = "QUEUED"
    TRAINING = "TRAINING"
    GATING = "GATING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def ended(self) -> bool:
        """Whether it changes no more."""
        return self in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)


@dataclass(frozen=True, slots=True)
class EpochMetrics:
    """One measured epoch; see the contract."""

    epoch: int
    train_loss: float
    validation_loss: float
    validation_auc: float


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A training run.

    Attributes:
        run_id: its id.
        requester: SPIFFE ID of who asked for it.
        request_id: the UUID that makes a retry safe, canonical.
        spec: what was asked for.
        state: where it stands.
        epochs: so far.
        model_version: the version it registered, or empty.
        error: why it failed, or empty.
        create_us: when it was asked for, µs since 1970 UTC.
        end_us: when it ended, or 0.
    """

    run_id: str
    requester: str
    request_id: str
    spec: TrainingSpec
    state: RunState
    epochs: tuple[EpochMetrics, ...]
    model_version: str
    error: str
    create_us: int
    end_us: int

    @property
    def name(self) -> str:
        """``trainingRuns/{training_run}``."""
        return f"trainingRuns/{self.run_id}"


@dataclass(frozen=True, slots=True)
class VersionRecord:
    """A model version.

    Attributes:
        model: id of its model.
        number: from 1.
        training_run: ``trainingRuns/{training_run}``.
        manifest: the signed bytes.
        signature: ed25519, over ``libs.artifact.signed_bytes`` of the manifest.
        key_version: version of the signing key.
        wrapped_key: the artifact's data key under ``keys/training-artifacts``.
        artifact_digest: SHA-256 of the sealed artifact, hexadecimal.
        artifact_size: of the sealed artifact, in bytes.
        gates: as measured.
        evaluation: JSON for reports.
        card: Markdown.
        create_us: µs since 1970 UTC.
    """

    model: str
    number: int
    training_run: str
    manifest: bytes
    signature: bytes
    key_version: int
    wrapped_key: bytes
    artifact_digest: str
    artifact_size: int
    gates: tuple[Gate, ...]
    evaluation: str
    card: str
    create_us: int

    @property
    def name(self) -> str:
        """``models/{model}/versions/{version}``."""
        return version_name(self.model, self.number)

    def read_manifest(self) -> Manifest:
        """Return the manifest; it was signed by this service when it was kept."""
        return Manifest.decode(self.manifest)


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A model: its id, its newest version, and the version that each alias points at."""

    model: str
    latest: int
    aliases: dict[str, int]


def version_name(model: str, number: int) -> str:
    """Return ``models/{model}/versions/{version}``."""
    return f"models/{model}/versions/{number}"
