"""Every RPC of the suite from its descriptors, and calls below the SDK: any bytes, any identity, with no deadline too."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from tritonclient.grpc import service_pb2

from hedgerow.channel import secure_channel
from hedgerow.client import metadata
from hedgerow.errors import HedgerowError, from_rpc_error
from hedgerow.features.v1 import features_pb2
from hedgerow.governance.v1 import governance_pb2
from hedgerow.identity import IdentityFolder
from hedgerow.inference.v1 import inference_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.secrets.v1 import secrets_pb2
from hedgerow.training.v1 import training_pb2
from tests.support.suite import RunningSuite

CALL_SECONDS = 15.0
ROOT = Path(__file__).resolve().parents[2]
SCHEMA = (ROOT / "libs" / "authz" / "hedgerow.cedarschema").read_text()


def _service(module: Any, name: str) -> ServiceDescriptor:
    descriptor: ServiceDescriptor = module.DESCRIPTOR.services_by_name[name]
    return descriptor


OWN = {
    "ingestion": [(_service(ingestion_pb2, "IngestionService"), "ingestion")],
    "features": [(_service(features_pb2, "FeaturesService"), "features")],
    "training": [
        (_service(training_pb2, "TrainingService"), "training"),
        (_service(models_pb2, "ModelsService"), "models"),
    ],
    "inference": [
        (_service(inference_pb2, "InferenceService"), "inference"),
        (_service(service_pb2, "GRPCInferenceService"), "inference"),
    ],
    "secrets": [(_service(secrets_pb2, "SecretsService"), "secrets")],
    "governance": [(_service(governance_pb2, "GovernanceService"), "governance")],
}
EVERYWHERE = [(_service(health_pb2, "Health"), "health"), (_service(reflection_pb2, "ServerReflection"), "reflection")]
ENROLMENT = _service(secrets_pb2, "EnrolmentService")


@dataclass(frozen=True)
class Rpc:
    """One method on one port.

    Attributes:
        port: the service that serves it.
        method: its descriptor.
        area: first part of its Cedar action.
    """

    port: str
    method: MethodDescriptor
    area: str

    @property
    def key(self) -> str:
        """``package.Service/Method``."""
        return f"{self.method.containing_service.full_name}/{self.method.name}"

    @property
    def action(self) -> str:
        """The Cedar action."""
        return f"{self.area}.{self.method.name}"

    @property
    def is_own(self) -> bool:
        """Whether this is of Hedgerow's own contract and not of a standard protocol."""
        return self.key.startswith("hedgerow.")

    def __str__(self) -> str:
        return f"{self.port}:{self.key}"


RPCS = [
    Rpc(port, method, area)
    for port, services in OWN.items()
    for service, area in (*services, *EVERYWHERE)
    for method in service.methods
]


def actions_in(*groups: str) -> set[str]:
    """Return the actions of the policy schema that are in one of these groups."""
    found: set[str] = set()
    for actions, parents in re.findall(r'action ((?:"[\w.]+",?\s*)+) in \[([^\]]*)\]', SCHEMA):
        if set(groups) & set(re.findall(r"\w+", parents)):
            found.update(re.findall(r"[\w.]+", actions))
    return found


async def send(
    channel: grpc.aio.Channel,
    method: MethodDescriptor,
    raws: Sequence[bytes],
    *,
    purpose: str = "",
    on_behalf_of: str = "",
    timeout: float | None = CALL_SECONDS,
) -> bytes | None:
    """Send raw messages and return the first raw answer, or None when a stream ends without one.

    Raises:
        HedgerowError: the typed error that came back.
    """
    path = f"/{method.containing_service.full_name}/{method.name}"
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    bound = getattr(channel, kind)(path)
    entries = metadata(purpose, on_behalf_of, "")
    sent = _stream(raws) if method.client_streaming else raws[0]
    call = bound(sent, timeout=timeout, metadata=entries)
    try:
        async with asyncio.timeout(CALL_SECONDS + 5):
            if not method.server_streaming:
                answer: bytes = await call
                return answer
            async for answer in call:
                return answer
            return None
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) from None
    finally:
        call.cancel()


async def _stream(raws: Sequence[bytes]) -> AsyncIterator[bytes]:
    for raw in raws:
        yield raw


async def refusal(channel: grpc.aio.Channel, method: MethodDescriptor, raws: Sequence[bytes], **how: Any) -> str:
    """Return code and reason of a call that must fail, as ``CODE REASON``; ``OK`` when it does not."""
    try:
        await send(channel, method, raws, **how)
    except HedgerowError as error:
        return f"{error.code_name} {error.reason}"
    return "OK"


class Callers:
    """Channels by caller and port, opened on first use.

    A caller is a person's name, or ``service/`` and a service's.
    """

    def __init__(self, suite: RunningSuite) -> None:
        self.suite = suite
        self._channels: dict[tuple[str, str], grpc.aio.Channel] = {}

    async def identity(self, caller: str) -> IdentityFolder:
        """Return the identity of a caller."""
        kind, _, name = caller.rpartition("/")
        return await (self.suite.workload(name) if kind else self.suite.person(name))

    async def channel(self, caller: str, port: str) -> grpc.aio.Channel:
        """Return a channel that presents the caller to a port."""
        key = (caller, port)
        if key not in self._channels:
            identity = (await self.identity(caller)).load()
            assert identity is not None, "it was just made"
            address, name = self.suite.config.address(port), self.suite.server_name(port)
            self._channels[key] = secure_channel(address, name, identity)
        return self._channels[key]

    async def close(self) -> None:
        """Close all channels."""
        for channel in self._channels.values():
            await channel.close()
