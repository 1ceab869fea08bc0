"""Between the messages of the contract and the domain: fields only, no rules but those of form."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from hedgerow import names
from hedgerow.models.v1 import models_pb2
from hedgerow.training.v1 import training_pb2 as pb
from services.training.records import ModelRecord, RunRecord, VersionRecord
from services.training.spec import GateBounds, ProtectedAttribute, TrainingSpec

RUN: Final = "trainingRuns/{training_run}"
MODEL: Final = "models/{model}"
VERSION: Final = "models/{model}/versions/{version}"


def run_id(name: str) -> str:
    """Return the id in the name of a training run, or raise InvalidArgumentError; so do the others."""
    return names.parse(RUN, name, field="name")["training_run"]


def model_id(name: str) -> str:
    """Return the id in the name of a model."""
    return names.parse(MODEL, name, field="model")["model"]


def version_ids(name: str) -> tuple[str, str]:
    """Return the model and the number or alias in the name of a version."""
    ids = names.parse(VERSION, name, field="name")
    return ids["model"], ids["version"]


def spec_from(message: pb.TrainingSpec) -> TrainingSpec:
    """Return the specification in a message, unchecked."""
    bounds = message.gate_bounds
    return TrainingSpec(
        training_set=message.training_set,
        model=message.model,
        world_size=message.world_size,
        seed=message.seed,
        max_epochs=message.max_epochs,
        batch_size=message.batch_size,
        learning_rate=message.learning_rate,
        hidden_sizes=tuple(message.hidden_sizes),
        dropout=message.dropout,
        weight_decay=message.weight_decay,
        protected_feature_service=message.protected_feature_service,
        protected_attributes=tuple(
            ProtectedAttribute(a.feature, a.display_name, tuple(a.band_edges), tuple(a.group_names))
            for a in message.protected_attributes
        ),
        gate_bounds=GateBounds(**{field.name: getattr(bounds, field.name) for field in dataclasses.fields(GateBounds)}),
    )


def run_message(record: RunRecord) -> pb.TrainingRun:
    """Return the message of a run."""
    message = pb.TrainingRun(
        name=record.name,
        spec=pb.TrainingSpec(**dataclasses.asdict(record.spec)),
        state=f"STATE_{record.state.value}",
        epochs=[pb.EpochMetrics(**dataclasses.asdict(epoch)) for epoch in record.epochs],
        model_version=record.model_version,
        error=record.error,
        create_time=_time(record.create_us),
    )
    if record.end_us:
        message.end_time.CopyFrom(_time(record.end_us))
    return message


def model_message(record: ModelRecord) -> models_pb2.Model:
    """Return the message of a model."""
    return models_pb2.Model(name=f"models/{record.model}", latest_version=record.latest, aliases=record.aliases)


def version_message(record: VersionRecord, aliases: Sequence[str]) -> models_pb2.ModelVersion:
    """Return the message of a version."""
    manifest = record.read_manifest()
    return models_pb2.ModelVersion(
        name=record.name,
        training_run=record.training_run,
        training_set=manifest.training_set,
        training_set_digest=manifest.training_set_digest,
        feature_service=manifest.feature_service,
        feature_names=manifest.feature_names,
        feature_descriptions=manifest.feature_descriptions,
        gates=[
            models_pb2.GateResult(
                name=gate.name,
                outcome=f"OUTCOME_{gate.outcome.value}",
                value=gate.value,
                bound=gate.bound,
                unit=gate.unit,
                detail=gate.detail,
            )
            for gate in record.gates
        ],
        card=record.card,
        evaluation_json=record.evaluation,
        artifact_digest=record.artifact_digest,
        signature=record.signature,
        manifest=record.manifest,
        purposes=manifest.purposes,
        aliases=aliases,
        create_time=_time(record.create_us),
        wrapped_key=record.wrapped_key,
        artifact_size=record.artifact_size,
        key_version=record.key_version,
    )


def _time(us: int) -> Timestamp:
    return Timestamp(seconds=us // 1_000_000, nanos=us % 1_000_000 * 1_000)
