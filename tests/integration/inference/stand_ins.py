"""The services inference calls, played by real servers with real identities and policies, but no work behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.descriptor import ServiceDescriptor

from hedgerow.errors import NotFoundError, PermissionDeniedError, UnimplementedError
from hedgerow.features.v1 import features_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.secrets.v1 import secrets_pb2
from libs.authz import Resource, ResourceAttributes
from libs.rpc import SUITE, Access, Audit, Call, Service
from tests.support.authority import service_id
from tests.unit.inference.small_model import DATA_KEY, FEATURES, KEY_VERSION, SIGNER, sealed_version

FEATURES_SERVICE = features_pb2.DESCRIPTOR.services_by_name["FeaturesService"]
MODELS_SERVICE = models_pb2.DESCRIPTOR.services_by_name["ModelsService"]
SECRETS_SERVICE = secrets_pb2.DESCRIPTOR.services_by_name["SecretsService"]
BLOCK = features_pb2.FeatureBlock


def stand_in(
    descriptor: ServiceDescriptor,
    servicer: Any,
    area: str,
    resources: Mapping[str, Callable[[Any], list[Resource]]],
    describe: Callable[[Resource], Any],
    granted: Mapping[str, Any] | None = None,
) -> Service:
    """Register the handlers that a stand-in has; every other method refuses."""

    async def refuse(request: Any, call: Call) -> Any:
        raise UnimplementedError("the stand-in does not offer this")

    class Rest:
        def __getattr__(self, name: str) -> Any:
            return getattr(servicer, name, refuse)

    access = {
        method.name: Access(
            resources.get(method.name, lambda r: [SUITE]), Audit.BUFFERED, granted=(granted or {}).get(method.name)
        )
        for method in descriptor.methods
    }
    return Service(descriptor, Rest(), area=area, access=access, describe=describe)


class Features:
    """An online store in which the entity ``c{i}`` has row i; remembers who asked."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows
        self.calls: list[Call] = []

    async def get_online_features(self, request: features_pb2.GetOnlineFeaturesRequest, call: Call) -> BLOCK:
        self.calls.append(call)
        known = {f"c{index}": row for index, row in enumerate(self.rows)}
        block = BLOCK(feature_names=[f"view.feature_{index}" for index in range(FEATURES)])
        block.statuses.extend(
            BLOCK.STATUS_PRESENT if key in known else BLOCK.STATUS_NOT_FOUND for key in request.entity_keys
        )
        missing = np.full(FEATURES, np.nan)
        block.values = np.array([known.get(key, missing) for key in request.entity_keys]).astype("<f8").tobytes()
        return block

    def service(self) -> Service:
        async def describe(resource: Resource) -> ResourceAttributes:
            return ResourceAttributes(purposes=frozenset({"credit_risk"}))

        resources = {"GetOnlineFeatures": lambda r: [Resource("FeatureService", r.feature_service)]}
        return stand_in(FEATURES_SERVICE, self, "features", resources, describe)


class Models:
    """A registry of the small model: versions 1 and 2 are good, 3 failed a gate, 4 is signed by nobody."""

    def __init__(self) -> None:
        self.versions = {number: sealed_version(number) for number in (1, 2, 4)}
        self.versions[3] = sealed_version(3, gates={"accuracy": "FAILED"})

    async def get_model_version(
        self, request: models_pb2.GetModelVersionRequest, call: Call
    ) -> models_pb2.ModelVersion:
        _, evidence = self._version(request.name)
        return models_pb2.ModelVersion(
            name=evidence.model_version,
            artifact_digest=evidence.artifact_digest,
            manifest=evidence.manifest,
            signature=evidence.signature if not request.name.endswith("/4") else bytes(64),
            key_version=evidence.key_version,
            wrapped_key=b"keys/training-artifacts|" + DATA_KEY,
        )

    async def download_artifact(
        self, request: models_pb2.DownloadArtifactRequest, call: Call
    ) -> AsyncIterator[models_pb2.DownloadArtifactResponse]:
        sealed, _ = self._version(request.name)
        grant = f"grant for {call.caller.principal}"
        for begin in range(0, len(sealed), 1000):
            yield models_pb2.DownloadArtifactResponse(chunk=sealed[begin : begin + 1000], grant="" if begin else grant)

    def _version(self, name: str) -> Any:
        try:
            return self.versions[int(name.rpartition("/")[2])]
        except (KeyError, ValueError):
            raise NotFoundError("there is no such version") from None

    def service(self) -> Service:
        async def describe(resource: Resource) -> ResourceAttributes:
            return ResourceAttributes(purposes=frozenset({"credit_risk"}))

        version = {
            name: (lambda r: [Resource("ModelVersion", r.name)]) for name in ("GetModelVersion", "DownloadArtifact")
        }
        return stand_in(MODELS_SERVICE, self, "models", version, describe)


class Keys:
    """A secrets service that wraps by putting the name of the key in front."""

    def __init__(self) -> None:
        self._signer = Ed25519PrivateKey.from_private_bytes(b"a" * 32)

    async def create_data_key(self, request: secrets_pb2.CreateDataKeyRequest, call: Call) -> secrets_pb2.DataKey:
        plaintext = request.key.encode()[:32].ljust(32, b".")
        return secrets_pb2.DataKey(plaintext=plaintext, wrapped=request.key.encode() + b"|" + plaintext)

    async def wrap_key(self, request: secrets_pb2.WrapKeyRequest, call: Call) -> secrets_pb2.WrapKeyResponse:
        return secrets_pb2.WrapKeyResponse(wrapped=request.key.encode() + b"|" + request.plaintext)

    async def unwrap_key(self, request: secrets_pb2.UnwrapKeyRequest, call: Call) -> secrets_pb2.UnwrapKeyResponse:
        key, _, plaintext = request.wrapped.partition(b"|")
        if key.decode() != request.key:
            raise PermissionDeniedError("wrapped under another key")
        return secrets_pb2.UnwrapKeyResponse(plaintext=plaintext)

    async def sign(self, request: secrets_pb2.SignRequest, call: Call) -> secrets_pb2.Signature:
        return secrets_pb2.Signature(signature=self._signer.sign(request.payload), key_version=1)

    async def get_verification_key(
        self, request: secrets_pb2.GetVerificationKeyRequest, call: Call
    ) -> secrets_pb2.VerificationKey:
        if request.key == "signingKeys/training-models":
            return secrets_pb2.VerificationKey(public_keys={KEY_VERSION: SIGNER.public_key().public_bytes_raw()})
        return secrets_pb2.VerificationKey(public_keys={1: self._signer.public_key().public_bytes_raw()})

    async def watch_trust(
        self, request: secrets_pb2.WatchTrustRequest, call: Call
    ) -> AsyncIterator[secrets_pb2.TrustState]:
        yield secrets_pb2.TrustState(version=1)
        await asyncio.sleep(call.time_left())

    def service(self) -> Service:
        async def describe(resource: Resource) -> ResourceAttributes:
            return ResourceAttributes(owner=resource.name.partition("/")[2].partition("-")[0])

        async def granted(request: Any, caller: Any) -> bool:
            return request.grant == f"grant for {service_id('inference')}" and caller.id == "inference"

        key = {name: (lambda r: [Resource("Key", r.key)]) for name in ("CreateDataKey", "WrapKey", "UnwrapKey")}
        signing = {name: (lambda r: [Resource("SigningKey", r.key)]) for name in ("Sign", "GetVerificationKey")}
        return stand_in(SECRETS_SERVICE, self, "secrets", key | signing, describe, {"UnwrapKey": granted})
