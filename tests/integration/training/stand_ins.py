"""The features service, played by a real server with the project's policies, and local keys."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hedgerow.errors import NotFoundError, UnimplementedError
from hedgerow.features.v1 import features_pb2 as pb
from libs.authz import Resource, ResourceAttributes
from libs.rpc import SUITE, Access, Call, Service
from services.training.training_set import TrainingRows

FEATURES_SERVICE = pb.DESCRIPTOR.services_by_name["FeaturesService"]
CREDIT, AUDIT = frozenset({"credit_risk"}), frozenset({"fairness_audit"})


class Features:
    """Training sets `set1` (ready), `building`, and `broken` (its stream breaks off); remembers who asked for what."""

    def __init__(self, rows: TrainingRows, protected: dict[str, tuple[float, float]]) -> None:
        self.rows = rows
        self.protected = protected
        self.calls: list[tuple[str, Call, Any]] = []

    async def get_training_set(self, request: pb.GetTrainingSetRequest, call: Call) -> pb.TrainingSet:
        self.calls.append(("GetTrainingSet", call, request))
        name = request.name.rpartition("/")[2]
        if name not in ("set1", "building", "broken"):
            raise NotFoundError(f"{request.name} does not exist", metadata={"resource": request.name})
        state = pb.TrainingSet.STATE_RUNNING if name == "building" else pb.TrainingSet.STATE_SUCCEEDED
        return pb.TrainingSet(
            name=request.name,
            feature_service="featureServices/credit",
            state=state,
            digest="ab" * 32,
            purposes=sorted(CREDIT),
        )

    async def get_feature_service(self, request: pb.GetFeatureServiceRequest, call: Call) -> pb.FeatureService:
        if request.name == "featureServices/protected":
            return pb.FeatureService(name=request.name, feature_names=["protected.sex", "protected.age"])
        if request.name != "featureServices/credit":
            raise NotFoundError(f"{request.name} does not exist", metadata={"resource": request.name})
        names = self.rows.feature_names
        return pb.FeatureService(
            name=request.name,
            feature_names=names,
            feature_descriptions=[f"What {name} means" for name in names],
            mutable_fractions=[0.05, 0.0, 0.05, 0.0, 0.0],
        )

    async def read_training_set(
        self, request: pb.ReadTrainingSetRequest, call: Call
    ) -> AsyncIterator[pb.ReadTrainingSetResponse]:
        self.calls.append(("ReadTrainingSet", call, request))
        table = _table(self.rows)
        for start in range(0, table.num_rows, 1000):
            yield pb.ReadTrainingSetResponse(arrow_ipc=_stream(table.slice(start, 1000)))
            if request.name.endswith("broken"):
                raise NotFoundError("the rows are gone")

    async def get_offline_features(self, request: pb.GetOfflineFeaturesRequest, call: Call) -> pb.FeatureBlock:
        self.calls.append(("GetOfflineFeatures", call, request))
        nothing = (float("nan"), float("nan"))
        values = [self.protected.get(key, nothing) for key in request.entity_keys]
        return pb.FeatureBlock(
            feature_names=["protected.sex", "protected.age"],
            values=np.array(values).astype("<f8").tobytes(),
            statuses=[
                pb.FeatureBlock.STATUS_PRESENT if key in self.protected else pb.FeatureBlock.STATUS_NOT_FOUND
                for key in request.entity_keys
            ],
        )

    def of(self, method: str) -> list[tuple[Call, Any]]:
        """The calls of a method."""
        return [(call, request) for name, call, request in self.calls if name == method]

    def service(self) -> Service:
        """The gRPC service: what it offers, and refusals for the rest."""

        async def refuse(request: Any, call: Call) -> Any:
            raise UnimplementedError("the stand-in does not offer this")

        async def describe(resource: Resource) -> ResourceAttributes:
            if resource.kind == "TrainingSet" or resource.name == "featureServices/credit":
                return ResourceAttributes(purposes=CREDIT)
            return ResourceAttributes(purposes=AUDIT if resource.name == "featureServices/protected" else frozenset())

        offered = self

        class Rest:
            def __getattr__(self, name: str) -> Any:
                return getattr(offered, name, refuse)

        resources: dict[str, Callable[[Any], Sequence[Resource]]] = {
            "GetTrainingSet": lambda r: [Resource("TrainingSet", r.name)],
            "ReadTrainingSet": lambda r: [Resource("TrainingSet", r.name)],
            "GetFeatureService": lambda r: [Resource("FeatureService", r.name)],
            "GetOfflineFeatures": lambda r: [Resource("FeatureService", r.feature_service)],
        }
        access = {m.name: Access(resources.get(m.name, lambda r: [SUITE])) for m in FEATURES_SERVICE.methods}
        return Service(FEATURES_SERVICE, Rest(), area="features", access=access, describe=describe)


class Keys:
    """Data keys that count up, and one signing key each for models and grants."""

    def __init__(self) -> None:
        self._signers = {
            "signingKeys/training-models": Ed25519PrivateKey.from_private_bytes(b"m" * 32),
            "signingKeys/training-grants": Ed25519PrivateKey.from_private_bytes(b"g" * 32),
        }
        self._made = 0

    async def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        self._made += 1
        plaintext = bytes([self._made]) * 32
        return plaintext, key.encode() + b"|" + plaintext

    async def sign(self, key: str, payload: bytes) -> tuple[bytes, int]:
        return self._signers[key].sign(payload), 1

    def public(self, key: str) -> dict[int, bytes]:
        return {1: self._signers[key].public_key().public_bytes_raw()}


def _table(rows: TrainingRows) -> pa.Table:
    columns: dict[str, Any] = {
        "entity": pa.array(rows.entities.tolist()),
        "as_of_time": pa.array(rows.as_of_us, pa.int64()).cast(pa.timestamp("us", "UTC")),
        "label": pa.array(rows.labels),
    }
    for position, name in enumerate(rows.feature_names):
        column = rows.features[:, position]
        columns[name] = pa.array(column, mask=np.isnan(column))
    return pa.table(columns)


def _stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue().to_pybytes())
