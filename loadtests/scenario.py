"""Who calls what on the suite that carries the credit example, as operations for the engine."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import random
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from google.protobuf.descriptor import ServiceDescriptor
from tritonclient.grpc import service_pb2

from examples.credit.records import client_id
from examples.credit.run import CREDIT_RISK, FAIRNESS_AUDIT, MARKETING, id_prefix
from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient, renew
from hedgerow.features.v1 import features_pb2
from hedgerow.governance.v1 import governance_pb2
from hedgerow.identity import IdentityFolder, IdentityRenewer
from hedgerow.inference.v1 import inference_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.sdk.arrow import to_messages
from hedgerow.sdk.context import Context
from hedgerow.sdk.features import matrix
from hedgerow.secrets.v1 import secrets_pb2
from hedgerow.training.v1 import training_pb2
from loadtests.engine import Operation, Sizes, UserKind

FOLDER = "HEDGEROW_LOAD_FOLDER"
PEOPLE = ("ana", "ben", "creditapp", "mia", "pia")
CLIENTS = 2000
KEYS = 8
TENSOR_ROWS = 16
BATCH_ROWS = 200
DATASET = "load_readings"
TENANTS = "tenants"
PROTECTED = "featureServices/client_protected"
SERVICE = "featureServices/credit_default"
DEPLOYMENT = "deployments/credit_default"
MODEL = "models/credit_default"
DENIED = "PERMISSION_DENIED"

CONTRACT = ingestion_pb2.Contract(
    columns=[
        ingestion_pb2.Column(name="reading", type=ingestion_pb2.Column.TYPE_INT64),
        ingestion_pb2.Column(name="amount", type=ingestion_pb2.Column.TYPE_FLOAT64, tags=["sensitive"]),
        ingestion_pb2.Column(name="taken", type=ingestion_pb2.Column.TYPE_TIMESTAMP),
    ],
    key_columns=["reading"],
    event_time_column="taken",
    purposes=[CREDIT_RISK],
    legal_basis="legitimate_interests",
    retention_days=1,
    description="Readings that a load test appends.",
)


class Callers:
    """People's clients of the services."""

    def __init__(
        self,
        context: Context,
        stack: contextlib.AsyncExitStack,
        *,
        replicas: int | None = None,
        channel: Callable[[str, str, IdentityFolder], Any] = RotatingChannel,
    ) -> None:
        """Name the suite.

        Args:
            context: of the suite.
            stack: closes the connections.
            replicas: calls go to so many of a service at most.
            channel: makes a connection, of an address, a server name and an identity.
        """
        self._context = context
        self._replicas = replicas
        self._stack = stack
        self._channel = channel
        self._channels: dict[tuple[str, str], Any] = {}

    def client(self, person: str, service: str, descriptor: ServiceDescriptor) -> ServiceClient:
        """Return a client; one connection for each person and service."""
        channel = self._channels.get((person, service))
        if channel is None:
            address = ",".join(self._context.addresses[service].split(",")[: self._replicas])
            channel = self._channel(address, f"{service}.{self._context.trust_domain}", self._context.identity(person))
            self._channels[person, service] = channel
            self._stack.push_async_callback(channel.close)
        return ServiceClient(channel, descriptor)

    def renewers(self) -> list[IdentityRenewer]:
        """Return what keeps the people's certificates fresh while the load lasts."""
        return [self._renewer(person) for person in PEOPLE]

    def _renewer(self, person: str) -> IdentityRenewer:
        client = self.client(person, "secrets", _descriptor(secrets_pb2, "SecretsService"))
        return IdentityRenewer(
            self._context.identity(person), lambda identity: renew(client, secrets_pb2.RenewCertificateRequest)
        )


@contextlib.asynccontextmanager
async def open_scenario() -> AsyncIterator[Mapping[str, UserKind]]:
    """Yield what users of each kind do to the suite in the folder that ``HEDGEROW_LOAD_FOLDER`` names."""
    async with contextlib.AsyncExitStack() as stack:
        callers = Callers(Context.load(Path(os.environ[FOLDER])), stack)
        tasks = [asyncio.create_task(renewer.run()) for renewer in callers.renewers()]
        stack.callback(lambda: [task.cancel() for task in tasks])
        yield kinds(await operations(callers))


def kinds(made: Mapping[str, Sequence[Operation]], think: float = 0.1) -> Mapping[str, UserKind]:
    """Return the kinds of users by name."""
    return {kind: UserKind(each, think) for kind, each in made.items()}


async def operations(callers: Callers) -> dict[str, list[Operation]]:
    """Return the operations of each kind of user."""
    return {
        "ingestion": _ingestion(callers),
        "features": [online(callers, "creditapp", CREDIT_RISK)],
        "inference": [await infer(callers), predict(callers, "creditapp", CREDIT_RISK)],
        "training": _training(callers),
        "secrets": _secrets(callers),
        "governance": _governance(callers),
        "tenants": _tenants(callers),
    }


def _ingestion(callers: Callers) -> list[Operation]:
    client = callers.client("ana", "ingestion", _descriptor(ingestion_pb2, "IngestionService"))
    dataset = ingestion_pb2.GetDatasetRequest(name=f"datasets/{DATASET}")
    return [append(callers), unary("ingestion", client, "GetDataset", lambda: dataset)]


def append(callers: Callers, *, deadline: float = 15.0, retry: bool = True) -> Operation:
    """Return the appending of one batch; the same request is sent again until it is acknowledged, and counts once."""
    client = callers.client("ana", "ingestion", _descriptor(ingestion_pb2, "IngestionService"))
    numbers = count(time.time_ns(), BATCH_ROWS)

    async def send(request_id: str, messages: Sequence[bytes], timeout: float) -> Sizes:
        sent = 0

        async def requests() -> AsyncIterator[ingestion_pb2.AppendRecordsRequest]:
            nonlocal sent
            for number, message in enumerate(messages):
                head = {"dataset": f"datasets/{DATASET}", "request_id": request_id} if not number else {}
                request = ingestion_pb2.AppendRecordsRequest(arrow_ipc=message, **head)
                sent += request.ByteSize()
                yield request

        answer = await client.send("AppendRecords", requests(), timeout=timeout, purpose=CREDIT_RISK)
        return sent, answer.ByteSize()

    def prepare() -> Callable[[float], Awaitable[Sizes]]:
        return functools.partial(send, str(uuid.uuid4()), list(to_messages(_batch(next(numbers)))))

    return Operation("ingestion", "AppendRecords", prepare, deadline, retry=retry)


def _batch(first: int) -> pa.Table:
    now = [time.time_ns() // 1000] * BATCH_ROWS
    return pa.table(
        {
            "reading": np.arange(first, first + BATCH_ROWS),
            "amount": np.full(BATCH_ROWS, 12.5),
            "taken": pa.array(now, pa.timestamp("us", tz="UTC")),
        }
    )


def unary(
    service: str,
    client: ServiceClient,
    method: str,
    make: Callable[[], Any],
    purpose: str = "",
    *,
    name: str = "",
    refusal: str = "",
    deadline: float = 15.0,
    retry: bool = True,
) -> Operation:
    """Return a unary call with the request that ``make`` gives."""

    def prepare() -> Callable[[float], Awaitable[Sizes]]:
        request = make()

        async def send(timeout: float) -> Sizes:
            answer = await client.call(method, request, timeout=timeout, purpose=purpose)
            return request.ByteSize(), answer.ByteSize()

        return send

    return Operation(service, name or method, prepare, deadline, refusal, retry)


def online(callers: Callers, person: str, purpose: str, *, group: str = "features", **how: Any) -> Operation:
    """Return the reading of a few clients' features."""
    client = callers.client(person, "features", _descriptor(features_pb2, "FeaturesService"))
    name = SERVICE if purpose != FAIRNESS_AUDIT else PROTECTED

    def make() -> features_pb2.GetOnlineFeaturesRequest:
        return features_pb2.GetOnlineFeaturesRequest(feature_service=name, entity_keys=_keys())

    label = f"GetOnlineFeatures as {person} for {purpose}" if group == TENANTS else ""
    return unary(group, client, "GetOnlineFeatures", make, purpose, name=label, **how)


def predict(callers: Callers, person: str, purpose: str, *, group: str = "inference", **how: Any) -> Operation:
    """Return predictions for a few clients by key."""
    client = callers.client(person, "inference", _descriptor(inference_pb2, "InferenceService"))

    def make() -> inference_pb2.PredictEntitiesRequest:
        return inference_pb2.PredictEntitiesRequest(deployment=DEPLOYMENT, entity_keys=_keys())

    label = f"PredictEntities as {person} for {purpose}" if group == TENANTS else ""
    return unary(group, client, "PredictEntities", make, purpose, name=label, **how)


async def infer(callers: Callers, rows: int = TENSOR_ROWS) -> Operation:
    """Return the sending of a tensor of clients' features over the Open Inference Protocol."""
    oip = callers.client("creditapp", "inference", _descriptor(service_pb2, "GRPCInferenceService"))
    model = DEPLOYMENT.partition("/")[2]
    metadata = await oip.call("ModelMetadata", service_pb2.ModelMetadataRequest(name=model))
    [tensor] = metadata.inputs
    features = callers.client("creditapp", "features", _descriptor(features_pb2, "FeaturesService"))
    asked = features_pb2.GetOnlineFeaturesRequest(feature_service=SERVICE, entity_keys=_keys(rows))
    values = matrix(await features.call("GetOnlineFeatures", asked, purpose=CREDIT_RISK))
    request = service_pb2.ModelInferRequest(
        model_name=model,
        inputs=[
            service_pb2.ModelInferRequest.InferInputTensor(
                name=tensor.name, datatype=tensor.datatype, shape=list(values.shape)
            )
        ],
        raw_input_contents=[values.astype(np.float64 if tensor.datatype == "FP64" else np.float32).tobytes()],
    )
    return unary("inference", oip, "ModelInfer", lambda: request, CREDIT_RISK)


def _training(callers: Callers) -> list[Operation]:
    models = callers.client("ben", "training", _descriptor(models_pb2, "ModelsService"))
    training = callers.client("ben", "training", _descriptor(training_pb2, "TrainingService"))
    version = models_pb2.GetModelVersionRequest(name=f"{MODEL}/versions/champion")
    listing, runs = models_pb2.ListModelsRequest(page_size=20), training_pb2.ListTrainingRunsRequest(page_size=20)
    return [
        unary("training", models, "GetModelVersion", lambda: version, CREDIT_RISK),
        unary("training", models, "ListModels", lambda: listing, CREDIT_RISK),
        unary("training", training, "ListTrainingRuns", lambda: runs, CREDIT_RISK),
    ]


def _secrets(callers: Callers) -> list[Operation]:
    client = callers.client("pia", "secrets", _descriptor(secrets_pb2, "SecretsService"))
    request = secrets_pb2.GetVerificationKeyRequest(key="signingKeys/governance-policy")
    return [unary("secrets", client, "GetVerificationKey", lambda: request)]


def _governance(callers: Callers) -> list[Operation]:
    client = callers.client("pia", "governance", _descriptor(governance_pb2, "GovernanceService"))
    bundle = governance_pb2.GetPolicyBundleRequest()
    erasures = governance_pb2.ListErasureRequestsRequest(page_size=20)
    return [
        unary("governance", client, "GetPolicyBundle", lambda: bundle),
        unary("governance", client, "ListErasureRequests", lambda: erasures),
    ]


def _tenants(callers: Callers) -> list[Operation]:
    """Return calls of several people for several purposes; what must be refused is good when it is refused."""
    return [
        online(callers, "ana", CREDIT_RISK, group=TENANTS),
        predict(callers, "creditapp", CREDIT_RISK, group=TENANTS),
        online(callers, "ben", CREDIT_RISK, group=TENANTS),
        online(callers, "mia", MARKETING, group=TENANTS, refusal=DENIED),
        predict(callers, "mia", CREDIT_RISK, group=TENANTS, refusal=DENIED),
        online(callers, "creditapp", FAIRNESS_AUDIT, group=TENANTS, refusal=DENIED),
    ]


def _keys(number: int = KEYS) -> list[str]:
    prefix = id_prefix(1)
    return [client_id(prefix, each) for each in random.sample(range(1, CLIENTS + 1), number)]


def _descriptor(module: Any, name: str) -> ServiceDescriptor:
    found: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]
    return found
