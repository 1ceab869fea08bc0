"""Handlers of hedgerow.inference.v1, with the other services played by fakes."""

from __future__ import annotations

import dataclasses
import datetime as dt
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedgerow.errors import (
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from hedgerow.features.v1 import features_pb2
from hedgerow.inference.v1 import inference_pb2 as pb
from hedgerow.models.v1 import models_pb2
from libs.rpc import Resource
from libs.sql import Database, open_database
from services.inference.batching import BatchLimits
from services.inference.deployment import Deployments, SealedArtifacts
from services.inference.model_runtime import ModelRuntime, RuntimeLimits
from services.inference.registry import VersionLoader
from services.inference.service import InferenceServicer, rpc_service
from services.inference.store import MIGRATIONS, DeploymentTable
from tests.unit.inference.calls import FakeClient, call
from tests.unit.inference.small_model import (
    DATA_KEY,
    FEATURES,
    KEY_VERSION,
    PUBLIC_KEY,
    probabilities,
    sealed_version,
)

NOW = dt.datetime(2026, 11, 25, 3, 0, tzinfo=dt.UTC)
BLOCK = features_pb2.FeatureBlock
ROWS = np.random.default_rng(9).normal(size=(3, FEATURES))


class Registry:
    """Versions of the small model by number, with the alias ``champion``."""

    def __init__(self) -> None:
        self.versions = {number: sealed_version(number) for number in (1, 2)}
        self.champion = 1
        self.client = FakeClient(GetModelVersion=self.get, DownloadArtifact=self.download)

    def number(self, name: str) -> int:
        last = name.rpartition("/")[2]
        number = self.champion if last == "champion" else int(last)
        if number not in self.versions:
            raise NotFoundError("there is no such version")
        return number

    def get(self, request: models_pb2.GetModelVersionRequest) -> models_pb2.ModelVersion:
        _, evidence = self.versions[self.number(request.name)]
        return models_pb2.ModelVersion(
            name=evidence.model_version,
            artifact_digest=evidence.artifact_digest,
            manifest=evidence.manifest,
            signature=evidence.signature,
            key_version=evidence.key_version,
            wrapped_key=b"wrapped by training",
        )

    def download(self, request: models_pb2.DownloadArtifactRequest) -> Iterator[models_pb2.DownloadArtifactResponse]:
        sealed, _ = self.versions[self.number(request.name)]
        yield models_pb2.DownloadArtifactResponse(grant="a grant", chunk=sealed[:100])
        yield models_pb2.DownloadArtifactResponse(chunk=sealed[100:])


class Keys:
    """The secrets service: unwraps by grant, wraps for inference."""

    def __init__(self) -> None:
        self.public_keys = {KEY_VERSION: PUBLIC_KEY}

    async def unwrap(self, key: str, wrapped: bytes, grant: str = "") -> bytes:
        if (key, wrapped, grant) not in (
            ("keys/training-artifacts", b"wrapped by training", "a grant"),
            ("keys/inference-artifacts", b"kept " + DATA_KEY, ""),
        ):
            raise PermissionDeniedError("no", reason="GRANT_INVALID")
        return DATA_KEY

    async def wrap(self, key: str, plaintext: bytes) -> bytes:
        assert key == "keys/inference-artifacts"
        return b"kept " + plaintext

    async def verification_keys(self, key: str) -> dict[int, bytes]:
        assert key == "signingKeys/training-models"
        return self.public_keys


@dataclasses.dataclass
class World:
    """A servicer and what is around it."""

    servicer: InferenceServicer
    deployments: Deployments
    registry: Registry
    keys: Keys
    features: FakeClient
    table: DeploymentTable
    runtime: ModelRuntime
    artifacts: SealedArtifacts

    async def deploy(self, version: str = "1") -> pb.Deployment:
        request = pb.CreateDeploymentRequest(deployment_id="credit", model_version=f"models/credit/versions/{version}")
        return await self.servicer.create_deployment(request, call())


def block_of(request: features_pb2.GetOnlineFeaturesRequest) -> features_pb2.FeatureBlock:
    """Row i for the entity ``e{i}``; ``gone`` is unknown and ``old`` too old."""
    block = BLOCK(feature_names=[f"view.feature_{index}" for index in range(FEATURES)])
    rows = []
    for key in request.entity_keys:
        status = {"gone": BLOCK.STATUS_NOT_FOUND, "old": BLOCK.STATUS_OUTSIDE_MAX_AGE}.get(key, BLOCK.STATUS_PRESENT)
        block.statuses.append(status)
        rows.append(ROWS[int(key[1:])] if status == BLOCK.STATUS_PRESENT else np.full(FEATURES, np.nan))
    block.values = np.array(rows).astype("<f8").tobytes()
    return block


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "inference.db", b"k" * 32, MIGRATIONS)
    yield opened
    opened.close()


@pytest.fixture
def world(tmp_path: Path, database: Database) -> Iterator[World]:
    runtime = ModelRuntime(RuntimeLimits(BatchLimits()))
    table, artifacts = DeploymentTable(database), SealedArtifacts(tmp_path / "artifacts")
    deployments = Deployments(table, artifacts, VersionLoader(runtime))
    registry, keys, features = Registry(), Keys(), FakeClient(GetOnlineFeatures=block_of)
    servicer: Any = InferenceServicer(
        deployments,
        registry=registry.client,  # type: ignore[arg-type]
        features=features,  # type: ignore[arg-type]
        keys=keys,
        now=lambda: NOW,
    )
    yield World(servicer, deployments, registry, keys, features, table, runtime, artifacts)
    runtime.close()


# ---- deployments


async def test_deployment_is_served_described_and_kept(world: World) -> None:
    answer = await world.deploy("champion")
    assert answer.name == "deployments/credit"
    assert answer.model_version == "models/credit/versions/1"
    assert answer.state == pb.Deployment.STATE_READY
    assert list(answer.purposes) == ["credit_risk"]
    assert len(answer.feature_names) == FEATURES
    assert answer.update_time.ToDatetime(dt.UTC) == NOW
    assert await world.servicer.get_deployment(pb.GetDeploymentRequest(name="deployments/credit"), call()) == answer
    (record,) = world.table.all()
    assert record.wrapped_key == b"kept " + DATA_KEY
    assert world.artifacts.get(record.evidence.artifact_digest) == world.registry.versions[1][0]
    attributes = await world.servicer.describe(Resource("Deployment", "deployments/credit"))
    assert attributes.purposes == frozenset({"credit_risk"})
    assert (await world.servicer.describe(Resource("Deployment", "deployments/nope"))).purposes == frozenset()
    methods = [
        (method, options["on_behalf_of"], options["purpose"]) for method, _, options in world.registry.client.calls
    ]
    token = "token of spiffe://hedgerow.local/user/creditapp for credit_risk"
    assert methods == [("GetModelVersion", token, "credit_risk"), ("DownloadArtifact", token, "credit_risk")]


async def test_restart_needs_neither_training_nor_a_grant(world: World) -> None:
    await world.deploy()
    restarted = Deployments(world.table, world.artifacts, VersionLoader(world.runtime))
    failures: list[str] = []
    await restarted.restore(
        lambda wrapped: world.keys.unwrap("keys/inference-artifacts", wrapped),
        lambda deployment_id, error: failures.append(error.reason),
    )
    assert failures == []
    assert restarted.find("credit").record == world.deployments.find("credit").record


async def test_same_version_again_is_not_loaded_again_and_an_alias_that_moved_is(world: World) -> None:
    await world.deploy("champion")
    model = world.deployments.find("credit").model
    await world.deploy("champion")
    assert world.deployments.find("credit").model is model
    world.registry.champion = 2
    assert (await world.deploy("champion")).model_version == "models/credit/versions/2"
    assert world.deployments.find("credit").model is not model


async def test_version_that_failed_a_gate_is_refused_and_the_old_one_serves(world: World) -> None:
    await world.deploy()
    world.registry.versions[3] = sealed_version(3, gates={"accuracy": "PASSED", "calibration": "FAILED"})
    with pytest.raises(FailedPreconditionError) as caught:
        await world.deploy("3")
    assert caught.value.reason == "GATE_NOT_PASSED"
    assert caught.value.metadata["gates"] == "calibration"
    assert world.deployments.find("credit").record.version == "1"


async def test_untrusted_version_is_refused(world: World) -> None:
    world.keys.public_keys = {KEY_VERSION: b"x" * 32}
    with pytest.raises(FailedPreconditionError) as caught:
        await world.deploy()
    assert caught.value.reason == "ARTIFACT_UNTRUSTED"
    world.keys.public_keys = {KEY_VERSION + 1: PUBLIC_KEY}
    with pytest.raises(FailedPreconditionError) as caught:
        await world.deploy()
    assert caught.value.reason == "ARTIFACT_UNTRUSTED"
    with pytest.raises(NotFoundError):
        world.deployments.find("credit")


async def test_errors_of_the_registry_and_bad_names_reach_the_caller(world: World) -> None:
    with pytest.raises(NotFoundError):
        await world.deploy("99")
    for deployment_id, version in (
        ("", "models/credit/versions/1"),
        ("Credit", "models/credit/versions/1"),
        ("c", "x"),
    ):
        request = pb.CreateDeploymentRequest(deployment_id=deployment_id, model_version=version)
        with pytest.raises(InvalidArgumentError):
            await world.servicer.create_deployment(request, call())
    with pytest.raises(InvalidArgumentError):
        await world.servicer.get_deployment(pb.GetDeploymentRequest(name="models/credit"), call())
    with pytest.raises(NotFoundError):
        await world.servicer.get_deployment(pb.GetDeploymentRequest(name="deployments/nope"), call())


async def test_listing_in_pages(world: World) -> None:
    for deployment_id in ("b", "a", "c"):
        request = pb.CreateDeploymentRequest(deployment_id=deployment_id, model_version="models/credit/versions/1")
        await world.servicer.create_deployment(request, call())
    first = await world.servicer.list_deployments(pb.ListDeploymentsRequest(page_size=2), call())
    assert [deployment.name for deployment in first.deployments] == ["deployments/a", "deployments/b"]
    rest = pb.ListDeploymentsRequest(page_size=2, page_token=first.next_page_token)
    second = await world.servicer.list_deployments(rest, call())
    assert [deployment.name for deployment in second.deployments] == ["deployments/c"]
    assert second.next_page_token == ""


# ---- predictions


async def predict(world: World, *keys: str) -> pb.PredictEntitiesResponse:
    request = pb.PredictEntitiesRequest(deployment="deployments/credit", entity_keys=keys)
    return await world.servicer.predict_entities(request, call())


async def test_prediction_reads_features_on_behalf_of_the_caller(world: World) -> None:
    await world.deploy()
    answer = await predict(world, "e2", "gone", "e0", "old")
    assert answer.model_version == "models/credit/versions/1"
    assert [prediction.status for prediction in answer.predictions] == [
        pb.Prediction.STATUS_OK,
        pb.Prediction.STATUS_ENTITY_NOT_FOUND,
        pb.Prediction.STATUS_OK,
        pb.Prediction.STATUS_FEATURES_EXPIRED,
    ]
    expected = probabilities(ROWS, 1)
    assert [prediction.probability for prediction in answer.predictions] == pytest.approx(
        [expected[2], 0.0, expected[0], 0.0], abs=1e-6
    )
    ((method, request, options),) = world.features.calls
    assert method == "GetOnlineFeatures"
    assert request.feature_service == "featureServices/credit"
    assert list(request.entity_keys) == ["e2", "gone", "e0", "old"]
    assert options["purpose"] == "credit_risk"
    assert options["on_behalf_of"] == "token of spiffe://hedgerow.local/user/creditapp for credit_risk"
    assert 0 < options["timeout"] <= 30


async def test_no_entity_with_features_is_no_error(world: World) -> None:
    await world.deploy()
    answer = await predict(world, "gone")
    assert [prediction.status for prediction in answer.predictions] == [pb.Prediction.STATUS_ENTITY_NOT_FOUND]


async def test_entity_keys_are_bounded(world: World) -> None:
    await world.deploy()
    for keys in ([], ["e0"] * 1001, ["e0", ""], ["e0", "k" * 257]):
        with pytest.raises(InvalidArgumentError) as caught:
            await predict(world, *keys)
        assert next(iter(caught.value.fields)).startswith("entity_keys")
    assert not any("k" * 10 in text for text in (caught.value.message, *caught.value.fields.values()))


async def test_refusal_by_features_reaches_the_caller(world: World) -> None:
    await world.deploy()

    def refuse(request: Any) -> Any:
        raise PermissionDeniedError("not for marketing", reason="PURPOSE_NOT_PERMITTED")

    world.features.answers["GetOnlineFeatures"] = refuse
    with pytest.raises(PermissionDeniedError) as caught:
        await predict(world, "e0")
    assert caught.value.reason == "PURPOSE_NOT_PERMITTED"


async def test_features_that_changed_since_training_are_refused(world: World) -> None:
    await world.deploy()
    names = [f"view.feature_{index}" for index in reversed(range(FEATURES))]
    world.features.answers["GetOnlineFeatures"] = lambda request: BLOCK(feature_names=names)
    with pytest.raises(FailedPreconditionError, match="trained on"):
        await predict(world, "e0")


async def test_block_of_another_size_is_a_fault_and_no_prediction(world: World) -> None:
    await world.deploy()

    def short(request: Any) -> Any:
        block = block_of(request)
        block.values = block.values[:-8]
        return block

    world.features.answers["GetOnlineFeatures"] = short
    with pytest.raises(InternalError):
        await predict(world, "e0")


# ---- explanations


async def explain(world: World, *keys: str, top: int = 0) -> pb.ExplainEntitiesResponse:
    request = pb.ExplainEntitiesRequest(deployment="deployments/credit", entity_keys=keys, top_reasons=top)
    return await world.servicer.explain_entities(request, call())


async def test_explanation_is_complete_and_in_words(world: World) -> None:
    await world.deploy()
    answer = await explain(world, "e1", "gone", "e0", top=2)
    predicted = await predict(world, "e1", "gone", "e0")
    assert [explanation.prediction for explanation in answer.explanations] == list(predicted.predictions)
    for explanation in (answer.explanations[0], answer.explanations[2]):
        difference = explanation.logit - explanation.baseline_logit
        assert len(explanation.attributions) == FEATURES
        assert abs(sum(explanation.attributions) - difference) == pytest.approx(explanation.completeness_gap, abs=1e-12)
        assert explanation.completeness_gap <= 1e-3 * max(1, abs(difference))
        assert 1 / (1 + math.exp(-explanation.logit)) == pytest.approx(explanation.prediction.probability, abs=1e-6)
        assert len(explanation.reasons) == 2
        strongest = explanation.reasons[0]
        index = int(strongest.feature.rpartition("_")[2])
        assert strongest.attribution == explanation.attributions[index]
        assert abs(strongest.attribution) == max(abs(value) for value in explanation.attributions)
        assert strongest.text.startswith(f"Feature number {index}: ")
        assert strongest.text.endswith("raises the risk" if strongest.attribution > 0 else "lowers the risk")
    assert len(answer.explanations[1].attributions) == 0


async def test_explanations_are_bounded(world: World) -> None:
    await world.deploy()
    with pytest.raises(InvalidArgumentError):
        await explain(world, *["e0"] * 101)
    for top in (-1, 51):
        with pytest.raises(InvalidArgumentError) as caught:
            await explain(world, "e0", top=top)
        assert list(caught.value.fields) == ["top_reasons"]


def test_resources_of_each_call(world: World) -> None:
    by_name = {method.path.rpartition("/")[2]: method for method in rpc_service(world.servicer).methods}
    request = pb.CreateDeploymentRequest(deployment_id="credit", model_version="models/credit/versions/1")
    assert by_name["CreateDeployment"].access.resources(request) == [
        Resource("Deployment", "deployments/credit"),
        Resource("ModelVersion", "models/credit/versions/1"),
    ]
    predicting = pb.PredictEntitiesRequest(deployment="deployments/credit")
    assert by_name["PredictEntities"].access.resources(predicting) == [Resource("Deployment", "deployments/credit")]
