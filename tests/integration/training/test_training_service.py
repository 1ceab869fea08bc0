"""The training service over mutual TLS: from a request to a signed, gated version, and every way to be refused."""

from __future__ import annotations

import asyncio
import base64
import datetime as dt
import json
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import numpy as np
import pytest
from cryptography import x509

from hedgerow.client import ON_BEHALF_OF_KEY, ServiceClient
from hedgerow.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HedgerowError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from hedgerow.identity import Identity
from hedgerow.models.v1 import models_pb2
from hedgerow.training.v1 import training_pb2 as pb
from libs.artifact import Evidence, open_artifact
from libs.identity.grants import verify_grant
from libs.sql import open_database
from services.training.feature_source import FeatureSource
from services.training.launch import Limits
from services.training.migrations import MIGRATIONS
from services.training.registry import ArtifactFolder, Registry
from services.training.runs import TrainingRuns
from services.training.service import ModelsServicer, TrainingServicer, rpc_services
from services.training.splits import split_rows
from services.training.store import TrainingStore
from tests.integration.training.stand_ins import FEATURES_SERVICE, Features, Keys
from tests.support.authority import Authority, user_id
from tests.support.serving import Served, serving
from tests.unit.training.rows import SEPTEMBER, training_rows, training_spec

TRAINING = pb.DESCRIPTOR.services_by_name["TrainingService"]
MODELS = models_pb2.DESCRIPTOR.services_by_name["ModelsService"]
ROWS = training_rows(1500)
RNG = np.random.default_rng(9)
PROTECTED = {
    str(entity): (float(RNG.integers(1, 3)), float(RNG.integers(20, 70))) for entity in np.unique(ROWS.entities)
}
OUTCOME = models_pb2.GateResult


@dataclass
class World:
    """Training served, with a features service to read from."""

    served: Served
    authority: Authority
    features: Features
    keys: Keys
    artifacts: Path
    runs: TrainingRuns

    def client(self, name: str = "ben", service: Any = TRAINING) -> ServiceClient:
        return self.served.client(self.authority.user(name), service)

    async def create(
        self, *, by: str = "ben", purpose: str = "credit_risk", request_id: str = "", **changes: Any
    ) -> Any:
        request = pb.CreateTrainingRunRequest(spec=spec(**changes), request_id=request_id or str(uuid.uuid4()))
        return await self.client(by).call("CreateTrainingRun", request, purpose=purpose)

    async def watched(self, name: str) -> list[pb.TrainingRun]:
        request = pb.WatchTrainingRunRequest(name=name)
        return [run async for run in self.client().stream("WatchTrainingRun", request, timeout=120.0)]

    async def models(self, method: str, request: Any, *, by: str = "ben") -> Any:
        return await self.client(by, MODELS).call(method, request)

    async def version(self, name: str) -> models_pb2.ModelVersion:
        return await self.models("GetModelVersion", models_pb2.GetModelVersionRequest(name=name))


def spec(**changes: Any) -> pb.TrainingSpec:
    """A short run."""
    import dataclasses

    return pb.TrainingSpec(**dataclasses.asdict(training_spec(**changes)))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    authority, features, keys = Authority(), Features(ROWS, PROTECTED), Keys()
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(
            serving(tmp_path / "features", [features.service()], name="features", authority=authority)
        )
        source = FeatureSource(upstream.client(authority.service("training"), FEATURES_SERVICE), max_rows=10_000)
        database = open_database(tmp_path / "training.db", b"k" * 32, MIGRATIONS)
        stack.callback(database.close)
        store = TrainingStore(database)
        now_us = lambda: time.time_ns() // 1000  # noqa: E731
        registry = Registry(store, ArtifactFolder(tmp_path / "artifacts"), keys, now_us)
        runs = TrainingRuns(store, source, registry, limits=Limits(), waiting=2, now_us=now_us)
        work = asyncio.create_task(runs.work())
        services = rpc_services(
            TrainingServicer(store, runs, source, now_us),
            ModelsServicer(
                registry,
                lambda payload: keys.sign("signingKeys/training-grants", payload),
                lambda: dt.datetime.now(dt.UTC),
            ),
        )
        served = await stack.enter_async_context(
            serving(tmp_path / "training", services, name="training", authority=authority)
        )
        yield World(served, authority, features, keys, tmp_path / "artifacts", runs)
        await runs.close()
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def test_from_a_request_to_a_promoted_version(world: World) -> None:
    run = await world.create()
    assert run.state == pb.TrainingRun.STATE_QUEUED
    renewed = world.authority.service("training")
    world.served.folder.save(renewed)
    seen = await world.watched(run.name)
    last = seen[-1]
    assert last.state == pb.TrainingRun.STATE_SUCCEEDED, last.error
    states = [message.state for message in seen]
    assert states == sorted(states)
    assert [epoch.epoch for epoch in last.epochs] == [1, 2, 3]
    assert last.end_time.ToMicroseconds() > last.create_time.ToMicroseconds()
    assert last.model_version == "models/credit/versions/1"

    version = await world.version(last.model_version)
    _check_version(version, run.name)
    await _check_reads(world, renewed)
    await _check_artifact(world, version)
    await _check_promotion(world, version.name)
    assert not [path for path in world.artifacts.iterdir() if path.stat().st_mode & 0o777 != 0o600]


def _check_version(version: models_pb2.ModelVersion, run: str) -> None:
    assert version.training_run == run
    assert version.training_set_digest == "ab" * 32
    assert list(version.purposes) == ["credit_risk"]
    assert list(version.feature_names) == list(ROWS.feature_names)
    outcomes = {gate.name: gate.outcome for gate in version.gates}
    assert outcomes == dict.fromkeys(
        ("accuracy", "calibration", "latency", "robustness", "fairness:sex", "fairness:age"), OUTCOME.OUTCOME_PASSED
    )
    report = json.loads(version.evaluation_json)
    assert report["test_auc"] > 0.8
    assert 0 < report["test_ece"] < 0.2
    assert report["attack_auc"] < report["clean_auc"]
    assert [group["display_name"] for group in report["groups"]] == ["Sex", "Age"]
    gate_rows = report["splits"]["gate"]["rows"]
    assert [sum(group["rows"] for group in table["groups"]) for table in report["groups"]] == [gate_rows] * 2
    for heading in ("Intended use", "Data and training", "Performance", "Gates", "Fairness", "Limits", "Inputs"):
        assert f"## {heading}" in version.card
    assert not any(entity in version.card + version.evaluation_json for entity in ROWS.entities)


async def _check_reads(world: World, renewed: Identity) -> None:
    """Everything was read for ben and for its purpose, and protected attributes of the gate split alone.

    A run goes on for longer than the certificate with which its request was taken: it shows the one of now.
    """
    ((read, _),) = world.features.of("ReadTrainingSet")
    assert (read.caller.on_behalf_of, read.purpose) == (user_id("ben"), "credit_risk")
    offline = world.features.of("GetOfflineFeatures")
    assert {(call.caller.on_behalf_of, call.purpose) for call, _ in offline} == {(user_id("ben"), "fairness_audit")}
    (token,) = {call.metadata[ON_BEHALF_OF_KEY] for call, _ in offline}
    signed_by = base64.b64decode(jwt.get_unverified_header(token)["x5c"][0])
    assert x509.load_der_x509_certificate(signed_by) == renewed.certificate
    asked = [key for _, request in offline for key in request.entity_keys]
    assert sorted(asked) == sorted(ROWS.entities[split_rows(ROWS, 7)["gate"].rows].tolist())
    assert all(request.pseudonymous for _, request in offline)
    assert {request.as_of_time.ToMicroseconds() for _, request in offline} == {SEPTEMBER}


async def _check_artifact(world: World, version: models_pb2.ModelVersion) -> None:
    request = models_pb2.DownloadArtifactRequest(name=version.name)
    client = world.served.client(world.authority.service("inference"), MODELS)
    parts = [part async for part in client.stream("DownloadArtifact", request)]
    sealed = b"".join(part.chunk for part in parts)
    assert len(sealed) == version.artifact_size
    grant = verify_grant(world.keys.public("signingKeys/training-grants"), parts[0].grant, dt.datetime.now(dt.UTC))
    grant.require("keys/training-artifacts", "spiffe://hedgerow.local/service/inference")
    assert [part.grant for part in parts[1:]] == [""] * (len(parts) - 1)
    evidence = Evidence(version.name, version.artifact_digest, version.manifest, version.signature, version.key_version)
    artifact = open_artifact(
        sealed,
        evidence,
        data_key=version.wrapped_key.partition(b"|")[2],
        public_keys=world.keys.public("signingKeys/training-models"),
    )
    assert artifact.manifest.feature_names == ROWS.feature_names
    assert artifact.manifest.gates["fairness:sex"] == "PASSED"
    assert np.isfinite(artifact.manifest.baseline).all()


async def _check_promotion(world: World, name: str) -> None:
    promoted = await world.models("PromoteModelVersion", models_pb2.PromoteModelVersionRequest(name=name, alias="live"))
    assert list(promoted.aliases) == ["live"]
    assert (await world.version("models/credit/versions/live")).name == name
    (model,) = (await world.models("ListModels", models_pb2.ListModelsRequest())).models
    assert (model.name, model.latest_version, dict(model.aliases)) == ("models/credit", 1, {"live": 1})
    for alias in ("", "1live", "Live", "a" * 64):
        with pytest.raises(InvalidArgumentError) as caught:
            await world.models("PromoteModelVersion", models_pb2.PromoteModelVersionRequest(name=name, alias=alias))
        assert list(caught.value.fields) == ["alias"]


async def test_a_model_worse_by_its_training_is_registered_but_not_promoted(world: World) -> None:
    run = await world.create(max_epochs=1, learning_rate=1e-9, hidden_sizes=(2,))
    last = (await world.watched(run.name))[-1]
    assert last.state == pb.TrainingRun.STATE_SUCCEEDED, last.error
    with pytest.raises(FailedPreconditionError) as caught:
        await world.models(
            "PromoteModelVersion", models_pb2.PromoteModelVersionRequest(name=last.model_version, alias="live")
        )
    assert caught.value.reason == "GATE_NOT_PASSED"
    assert "accuracy" in caught.value.metadata["gates"].split(",")
    with pytest.raises(NotFoundError):
        await world.version("models/credit/versions/live")


async def test_missing_protected_attributes_are_not_a_pass(world: World) -> None:
    world.features.protected = {}
    run = await world.create()
    last = (await world.watched(run.name))[-1]
    version = await world.version(last.model_version)
    outcomes = {gate.name: gate.outcome for gate in version.gates}
    assert outcomes["fairness:sex"] == OUTCOME.OUTCOME_NOT_ENOUGH_EVIDENCE
    with pytest.raises(FailedPreconditionError) as caught:
        await world.models(
            "PromoteModelVersion", models_pb2.PromoteModelVersionRequest(name=version.name, alias="live")
        )
    assert caught.value.metadata["gates"] == "fairness:sex,fairness:age"


async def test_a_repeated_request_starts_one_run(world: World) -> None:
    request_id = str(uuid.uuid4())
    first = await world.create(request_id=request_id)
    again = await world.create(request_id=request_id.upper())
    assert again.name == first.name
    with pytest.raises(AlreadyExistsError) as caught:
        await world.create(request_id=request_id, seed=8)
    assert caught.value.reason == "RESOURCE_EXISTS"
    other = await world.create(by="ben", request_id=str(uuid.uuid4()))
    assert other.name != first.name


async def test_cancelling_and_the_bound_on_waiting_runs(world: World) -> None:
    running = await world.create(max_epochs=1000, learning_rate=1e-9, batch_size=8, hidden_sizes=(256, 256))
    request = pb.WatchTrainingRunRequest(name=running.name)
    async for message in world.client().stream("WatchTrainingRun", request, timeout=120.0):
        if message.epochs:
            break
    waiting = [await world.create(), await world.create()]
    request_id = str(uuid.uuid4())
    for _ in range(2):  # what was refused is forgotten, so a retry is refused too, not answered with a failed run
        with pytest.raises(ResourceExhaustedError) as caught:
            await world.create(request_id=request_id)
    assert caught.value.reason == "OVERLOADED"
    assert caught.value.retry_after == 30.0
    for name in (waiting[0].name, running.name):
        cancelled = await _cancel(world, name)
        assert cancelled.state == pb.TrainingRun.STATE_CANCELLED
        assert cancelled.HasField("end_time")
    with pytest.raises(FailedPreconditionError) as refused:
        await _cancel(world, running.name)
    assert refused.value.reason == "STATE_CONFLICT"
    assert (await world.watched(waiting[1].name))[-1].state == pb.TrainingRun.STATE_SUCCEEDED
    assert (await world.watched(waiting[0].name))[-1].state == pb.TrainingRun.STATE_CANCELLED


async def _cancel(world: World, name: str) -> pb.TrainingRun:
    return await world.client().call("CancelTrainingRun", pb.CancelTrainingRunRequest(name=name))


async def test_a_run_whose_rows_cannot_be_read_fails_and_says_why(world: World) -> None:
    run = await world.create(training_set="trainingSets/broken")
    last = (await world.watched(run.name))[-1]
    assert (last.state, last.error) == (pb.TrainingRun.STATE_FAILED, "the rows are gone")
    assert last.model_version == ""


async def test_a_run_at_work_is_closed_when_the_service_stops(world: World) -> None:
    run = await world.create(max_epochs=1000, learning_rate=1e-9, batch_size=8, hidden_sizes=(256, 256))
    async for message in world.client().stream(
        "WatchTrainingRun", pb.WatchTrainingRunRequest(name=run.name), timeout=120.0
    ):
        if message.epochs:
            break
    await world.runs.close()
    last = (await world.watched(run.name))[-1]
    assert last.state == pb.TrainingRun.STATE_FAILED
    assert "stopped before the run was done" in last.error


@pytest.mark.parametrize(
    ("changes", "kind", "reason", "field"),
    [
        ({"training_set": "trainingSets/unknown"}, NotFoundError, "RESOURCE_NOT_FOUND", ""),
        ({"training_set": "trainingSets/building"}, FailedPreconditionError, "STATE_CONFLICT", ""),
        ({"world_size": 0}, InvalidArgumentError, "FIELD_INVALID", "spec.world_size"),
        ({"hidden_sizes": ()}, InvalidArgumentError, "FIELD_INVALID", "spec.hidden_sizes"),
        ({"request_id": "not-a-uuid"}, InvalidArgumentError, "FIELD_INVALID", "request_id"),
        ({"protected_feature_service": "featureServices/no"}, NotFoundError, "RESOURCE_NOT_FOUND", ""),
        (
            {"protected_feature_service": "featureServices/credit"},
            InvalidArgumentError,
            "FIELD_INVALID",
            "spec.protected_attributes[0].feature",
        ),
    ],
)
async def test_bad_requests(
    world: World, changes: dict[str, Any], kind: type[HedgerowError], reason: str, field: str
) -> None:
    with pytest.raises(kind) as caught:
        await world.create(**changes)
    assert type(caught.value) is kind
    assert caught.value.reason == reason
    assert list(caught.value.fields) == ([field] if field else [])


async def test_a_protected_attribute_cannot_be_an_input(world: World) -> None:
    import dataclasses

    attribute = dataclasses.replace(training_spec().protected_attributes[0], feature="view.feature_0")
    with pytest.raises(InvalidArgumentError) as caught:
        await world.create(protected_feature_service="featureServices/credit", protected_attributes=(attribute,))
    assert "does not have as an input" in caught.value.message


async def test_purposes_and_roles_hold(world: World) -> None:
    for by, purpose in (("mia", "marketing"), ("ben", ""), ("ben", "marketing")):
        with pytest.raises(PermissionDeniedError) as caught:
            await world.create(by=by, purpose=purpose)
        assert caught.value.reason == "PURPOSE_NOT_PERMITTED"
    with pytest.raises(PermissionDeniedError):
        await world.client("creditapp").call("ListTrainingRuns", pb.ListTrainingRunsRequest())
    assert world.features.of("ReadTrainingSet") == []


async def test_unknown_and_malformed_names(world: World) -> None:
    training = world.client()
    for method, kind in (
        ("GetTrainingRun", pb.GetTrainingRunRequest),
        ("CancelTrainingRun", pb.CancelTrainingRunRequest),
    ):
        with pytest.raises(NotFoundError):
            await training.call(method, kind(name="trainingRuns/none"))
        with pytest.raises(InvalidArgumentError):
            await training.call(method, kind(name="none"))
    with pytest.raises(NotFoundError):
        await world.watched("trainingRuns/none")
    for name in ("models/credit/versions/1", "models/credit/versions/live", "models/credit/versions/999999999999"):
        with pytest.raises(NotFoundError):
            await world.version(name)
        with pytest.raises(NotFoundError):
            await world.models("PromoteModelVersion", models_pb2.PromoteModelVersionRequest(name=name, alias="live"))
    with pytest.raises(InvalidArgumentError):
        await world.version("models/credit")
    with pytest.raises(NotFoundError):
        await world.models("ListModelVersions", models_pb2.ListModelVersionsRequest(model="models/none"))
    for request in (models_pb2.ListModelsRequest(page_size=-1), models_pb2.ListModelsRequest(page_token="*")):
        with pytest.raises(InvalidArgumentError):
            await world.models("ListModels", request)
    with pytest.raises(InvalidArgumentError):
        await training.call("ListTrainingRuns", pb.ListTrainingRunsRequest(page_token="YWJj"))


async def test_runs_are_listed_newest_first_in_pages(world: World) -> None:
    first = await world.create(training_set="trainingSets/broken")
    await world.watched(first.name)
    second = await world.create(training_set="trainingSets/broken")
    await world.watched(second.name)
    one = await world.client().call("ListTrainingRuns", pb.ListTrainingRunsRequest(page_size=1))
    two = await world.client().call(
        "ListTrainingRuns", pb.ListTrainingRunsRequest(page_size=1, page_token=one.next_page_token)
    )
    assert [run.name for run in (*one.training_runs, *two.training_runs)] == [second.name, first.name]
    assert two.next_page_token == ""
