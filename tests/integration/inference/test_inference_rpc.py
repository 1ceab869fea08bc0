"""Inference over mutual TLS: an unmodified tritonclient, entity predictions on behalf of the caller, and refusals."""

from __future__ import annotations

import asyncio
import queue
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from hedgerow.client import ServiceClient
from hedgerow.errors import (
    FailedPreconditionError,
    HedgerowError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from hedgerow.identity import Identity
from hedgerow.inference.v1 import inference_pb2 as pb
from libs.runtime import SecretsClient
from libs.sql import open_database
from services.inference import oip, service
from services.inference.batching import BatchLimits
from services.inference.deployment import Deployments, SealedArtifacts
from services.inference.model_runtime import ModelRuntime, RuntimeLimits
from services.inference.registry import VersionLoader
from services.inference.store import MIGRATIONS, DeploymentTable
from tests.integration.inference.stand_ins import (
    FEATURES_SERVICE,
    MODELS_SERVICE,
    SECRETS_SERVICE,
    Features,
    Keys,
    Models,
)
from tests.support.authority import Authority, service_id, user_id
from tests.support.serving import Served, serving
from tests.unit.inference.small_model import FEATURES, probabilities

INFERENCE_SERVICE = pb.DESCRIPTOR.services_by_name["InferenceService"]
ROWS = np.random.default_rng(21).normal(size=(20, FEATURES))
CREDIT = {"hedgerow-purpose": "credit_risk"}


@dataclass
class World:
    """Inference served, with the services it calls."""

    served: Served
    authority: Authority
    features: Features
    tmp: Path

    def client(self, name: str) -> ServiceClient:
        """A client as a person or application."""
        return self.served.client(self.authority.user(name), INFERENCE_SERVICE)

    async def deploy(self, version: int = 1, *, by: str = "ben") -> pb.Deployment:
        request = pb.CreateDeploymentRequest(deployment_id="credit", model_version=f"models/credit/versions/{version}")
        return await self.client(by).call("CreateDeployment", request, purpose="credit_risk")

    def triton(self, identity: Identity) -> triton.InferenceServerClient:
        """The unmodified client with a certificate."""
        key, chain, roots = (self.tmp / name for name in ("key.pem", "chain.pem", "roots.pem"))
        key.write_bytes(identity.key_pem)
        chain.write_bytes(identity.chain_pem)
        roots.write_bytes(self.authority.roots_pem)
        return triton.InferenceServerClient(
            f"localhost:{self.served.port}",
            ssl=True,
            root_certificates=str(roots),
            private_key=str(key),
            certificate_chain=str(chain),
        )


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    authority, features = Authority(), Features(ROWS)
    async with AsyncExitStack() as stack:
        peers = {}
        for name, stood_in in (("features", features), ("training", Models()), ("secrets", Keys())):
            peers[name] = await stack.enter_async_context(
                serving(tmp_path / name, [stood_in.service()], name=name, authority=authority)
            )
        identity = authority.service("inference")

        def client(name: str, descriptor: Any) -> ServiceClient:
            return peers[name].client(identity, descriptor)

        database = open_database(tmp_path / "inference.db", b"k" * 32, MIGRATIONS)
        stack.callback(database.close)
        runtime = ModelRuntime(RuntimeLimits(BatchLimits()))
        stack.callback(runtime.close)
        deployments = Deployments(
            DeploymentTable(database), SealedArtifacts(tmp_path / "artifacts"), VersionLoader(runtime)
        )
        servicer = service.InferenceServicer(
            deployments,
            registry=client("training", MODELS_SERVICE),
            features=client("features", FEATURES_SERVICE),
            keys=SecretsClient(client("secrets", SECRETS_SERVICE)),
        )
        open_inference = oip.OpenInferenceServicer(
            deployments, stopping=lambda: False, request_rows=1000, default_seconds=30.0
        )
        services = [service.rpc_service(servicer), oip.rpc_service(open_inference, servicer.describe)]
        served = await stack.enter_async_context(
            serving(tmp_path / "inference", services, name="inference", authority=authority)
        )
        yield World(served, authority, features, tmp_path)


async def code_of(attempt: Any) -> HedgerowError:
    with pytest.raises(HedgerowError) as caught:
        await attempt
    return caught.value


# ---- deployments


async def test_deploying_needs_a_role_and_a_trusted_version(world: World) -> None:
    assert (await code_of(world.deploy(by="creditapp"))).reason == "POLICY_DENIED"
    assert isinstance(await code_of(world.deploy(99)), NotFoundError)
    failed = await code_of(world.deploy(3))
    assert isinstance(failed, FailedPreconditionError)
    assert (failed.reason, failed.metadata["gates"]) == ("GATE_NOT_PASSED", "accuracy")
    assert (await code_of(world.deploy(4))).reason == "ARTIFACT_UNTRUSTED"
    deployed = await world.deploy(1)
    assert (deployed.model_version, deployed.state) == ("models/credit/versions/1", pb.Deployment.STATE_READY)
    listed = await world.client("ana").call("ListDeployments", pb.ListDeploymentsRequest())
    assert list(listed.deployments) == [deployed]
    got = await world.client("creditapp").call("GetDeployment", pb.GetDeploymentRequest(name="deployments/credit"))
    assert got == deployed


# ---- entities


async def test_prediction_and_explanation_for_entities(world: World) -> None:
    await world.deploy()
    client = world.client("creditapp")
    keys = ["c3", "nobody", "c7"]
    request = pb.PredictEntitiesRequest(deployment="deployments/credit", entity_keys=keys)
    answer = await client.call("PredictEntities", request, purpose="credit_risk")
    assert [prediction.status for prediction in answer.predictions] == [1, 2, 1]
    expected = probabilities(ROWS, 1)
    assert [prediction.probability for prediction in answer.predictions] == pytest.approx(
        [expected[3], 0.0, expected[7]], abs=1e-6
    )
    caller = world.features.calls[-1].caller
    assert (caller.principal, caller.on_behalf_of) == (service_id("inference"), user_id("creditapp"))
    explained = await client.call(
        "ExplainEntities",
        pb.ExplainEntitiesRequest(deployment="deployments/credit", entity_keys=keys, top_reasons=3),
        purpose="credit_risk",
    )
    assert [explanation.prediction for explanation in explained.explanations] == list(answer.predictions)
    assert [len(explanation.reasons) for explanation in explained.explanations] == [3, 0, 3]
    assert all(explanation.completeness_gap < 1e-3 for explanation in explained.explanations)
    durable = [event for event in world.served.events if event.action == "inference.ExplainEntities"]
    assert [(event.code, dict(event.detail)) for event in durable] == [("OK", {"entities": 3})]


async def test_marketing_is_refused_here_and_behind(world: World) -> None:
    await world.deploy()
    request = pb.PredictEntitiesRequest(deployment="deployments/credit", entity_keys=["c1"])
    for purpose in ("marketing", "credit_risk", ""):
        refused = await code_of(world.client("mia").call("PredictEntities", request, purpose=purpose))
        assert isinstance(refused, PermissionDeniedError)
        assert refused.reason == "PURPOSE_NOT_PERMITTED"
    assert world.features.calls == []


async def test_bad_requests_get_their_codes(world: World) -> None:
    await world.deploy()
    client = world.client("creditapp")

    async def predict(deployment: str, *keys: str) -> HedgerowError:
        request = pb.PredictEntitiesRequest(deployment=deployment, entity_keys=keys)
        return await code_of(client.call("PredictEntities", request, purpose="credit_risk"))

    assert isinstance(await predict("deployments/nope", "c1"), NotFoundError)
    assert isinstance(await predict("credit", "c1"), InvalidArgumentError)
    assert list((await predict("deployments/credit")).fields) == ["entity_keys"]
    assert isinstance(await predict("deployments/credit", "k" * 5_000_000), ResourceExhaustedError)


# ---- the unmodified client


async def on_thread(world: World, work: Callable[[triton.InferenceServerClient], Any], user: str = "creditapp") -> Any:
    """Run blocking work with a client of its own in a thread, so that the server's loop stays free."""

    def run() -> Any:
        with world.triton(world.authority.user(user)) as client:
            return work(client)

    return await asyncio.to_thread(run)


def tensor(rows: np.ndarray) -> list[triton.InferInput]:
    given = triton.InferInput("features", list(rows.shape), "FP64")
    given.set_data_from_numpy(rows)
    return [given]


async def test_tritonclient_works_unmodified(world: World) -> None:
    """OIP-07."""
    await world.deploy()

    def work(client: triton.InferenceServerClient) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("credit")
        assert not client.is_model_ready("credit", "9", headers=CREDIT)
        assert client.get_server_metadata().name == "hedgerow"
        metadata = client.get_model_metadata("credit")
        assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("features", "FP64", [-1, FEATURES])]
        assert client.get_model_config("credit").config.max_batch_size == 1000
        index = client.get_model_repository_index()
        assert [(model.name, model.version, model.state) for model in index.models] == [("credit", "1", "READY")]
        answer = client.infer("credit", tensor(ROWS), headers=CREDIT, request_id="r-1")
        np.testing.assert_allclose(answer.as_numpy("probability")[:, 0], probabilities(ROWS, 1), atol=1e-6)
        assert answer.get_response().id == "r-1"
        outputs = [triton.InferRequestedOutput("probability")]
        empty = client.infer("credit", tensor(ROWS[:0]), "1", outputs=outputs, headers=CREDIT)
        assert empty.as_numpy("probability").shape == (0, 1)
        answers: queue.Queue[Any] = queue.Queue()
        client.async_infer(
            "credit", tensor(ROWS[:2]), lambda result, error: answers.put((result, error)), headers=CREDIT
        )
        result, error = answers.get(timeout=30)
        assert error is None
        np.testing.assert_allclose(result.as_numpy("probability")[:, 0], probabilities(ROWS[:2], 1), atol=1e-6)
        statistics = client.get_inference_statistics("credit").model_stats[0]
        assert statistics.inference_count == len(ROWS) + 2

    await on_thread(world, work)


async def test_tritonclient_streams(world: World) -> None:
    """OIP-17."""
    await world.deploy()

    def work(client: triton.InferenceServerClient) -> None:
        answers: queue.Queue[Any] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)), headers=CREDIT)
        client.async_stream_infer("credit", tensor(ROWS[:3]), enable_empty_final_response=True)
        client.async_stream_infer("credit", tensor(ROWS[0]))
        client.async_stream_infer("credit", tensor(ROWS[:1]))
        (first, none), (nothing, error), (last, _) = (answers.get(timeout=30) for _ in range(3))
        client.stop_stream()
        assert none is None
        assert first.as_numpy("probability").shape == (3, 1)
        assert first.get_response().parameters["triton_final_response"].bool_param
        assert nothing is None
        assert "INVALID_ARGUMENT" in error.message()
        assert last.as_numpy("probability").shape == (1, 1)

    await on_thread(world, work)


async def test_tritonclient_gets_exact_codes(world: World) -> None:
    await world.deploy()

    def status(call: Callable[[], Any]) -> str:
        with pytest.raises(InferenceServerException) as caught:
            call()
        return str(caught.value.status())

    def work(client: triton.InferenceServerClient) -> None:
        infer = client.infer
        assert status(lambda: infer("no_such_model", tensor(ROWS), headers=CREDIT)) == "StatusCode.NOT_FOUND"
        assert status(lambda: infer("credit", tensor(ROWS), "99", headers=CREDIT)) == "StatusCode.NOT_FOUND"
        assert status(lambda: client.get_model_metadata("no_such_model")) == "StatusCode.NOT_FOUND"
        assert status(lambda: infer("credit", tensor(ROWS[0]), headers=CREDIT)) == "StatusCode.INVALID_ARGUMENT"
        assert status(lambda: infer("credit", tensor(ROWS))) == "StatusCode.PERMISSION_DENIED"
        wrong_purpose = {"hedgerow-purpose": "marketing"}
        assert status(lambda: infer("credit", tensor(ROWS), headers=wrong_purpose)) == "StatusCode.PERMISSION_DENIED"
        # Loading is a change of the server: an application may not even ask for it.
        assert status(lambda: client.load_model("credit")) == "StatusCode.PERMISSION_DENIED"

    await on_thread(world, work)

    def operate(client: triton.InferenceServerClient) -> None:
        for refused in (
            lambda: client.load_model("credit"),
            lambda: client.unload_model("credit"),
            client.get_system_shared_memory_status,
            client.get_trace_settings,
            client.get_log_settings,
        ):
            assert status(refused) == "StatusCode.UNIMPLEMENTED"

    await on_thread(world, operate, "operator")


async def test_redeployment_under_load_fails_no_call(world: World) -> None:
    """OIP-23."""
    await world.deploy(1)
    client = world.client("creditapp")
    request = pb.PredictEntitiesRequest(deployment="deployments/credit", entity_keys=["c5"])
    done = asyncio.Event()
    answers: list[Any] = []

    async def ask() -> None:
        while not done.is_set():
            answers.append(await client.call("PredictEntities", request, purpose="credit_risk"))

    callers = [asyncio.create_task(ask()) for _ in range(4)]
    await world.deploy(2)
    assert isinstance(await code_of(world.deploy(3)), FailedPreconditionError)
    done.set()
    await asyncio.gather(*callers)
    last = await client.call("PredictEntities", request, purpose="credit_risk")
    assert last.model_version == "models/credit/versions/2"
    for answer in [*answers, last]:
        version = int(answer.model_version.rpartition("/")[2])
        assert answer.predictions[0].probability == pytest.approx(probabilities(ROWS[5:6], version)[0], abs=1e-6)


async def test_caller_without_or_with_a_foreign_certificate_is_refused(world: World) -> None:
    foreign = Authority("foreign root").user("creditapp", roots_pem=world.authority.roots_pem)

    def work() -> None:
        with world.triton(foreign) as client, pytest.raises(InferenceServerException) as caught:
            client.is_server_live(client_timeout=5)
        assert str(caught.value.status()) in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")

    await asyncio.to_thread(work)
