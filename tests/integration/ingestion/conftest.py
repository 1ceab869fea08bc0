"""The ingestion service on a real port with the whole chain, its keys in memory."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hedgerow.client import ServiceClient
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from libs.identity.grants import Grant, verify_grant
from libs.lake import SnapshotReader
from libs.rpc.delegation import DelegationSigner
from services.ingestion.append import AppendLimits
from services.ingestion.contract import ColumnType
from services.ingestion.service import IngestionService, rpc_service
from services.ingestion.workers import Workers
from tests.support.authority import folder, service_id, user_id
from tests.support.serving import Served, serving
from tests.unit.ingestion.ingestion_fixtures import CONTRACT, Keys, ipc, open_catalog, open_store

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["IngestionService"]
TYPES = {
    ColumnType.STRING: pb.Column.TYPE_STRING,
    ColumnType.INT64: pb.Column.TYPE_INT64,
    ColumnType.FLOAT64: pb.Column.TYPE_FLOAT64,
    ColumnType.BOOL: pb.Column.TYPE_BOOL,
    ColumnType.TIMESTAMP: pb.Column.TYPE_TIMESTAMP,
}


def contract_message() -> pb.Contract:
    """Return the test contract as a client sends it."""
    columns = []
    for column in CONTRACT.columns:
        fields = {name: value for name, value in vars(column).items() if name != "type"}
        columns.append(pb.Column(type=TYPES[column.type], **fields))  # type: ignore[index]
    return pb.Contract(columns=columns, **{k: v for k, v in vars(CONTRACT).items() if k != "columns"})


@dataclass
class Ingestion:
    """The running service and clients of it."""

    served: Served
    keys: Keys
    signing_key: Ed25519PrivateKey
    clients: dict[str, ServiceClient] = field(default_factory=dict)

    def user(self, name: str) -> ServiceClient:
        if name not in self.clients:
            self.clients[name] = self.served.client(self.served.authority.user(name), DESCRIPTOR)
        return self.clients[name]

    def service(self, name: str) -> ServiceClient:
        if name not in self.clients:
            self.clients[name] = self.served.client(self.served.authority.service(name), DESCRIPTOR)
        return self.clients[name]

    def delegation(self, service: str, user: str, purpose: str) -> str:
        """Return the token with which a service acts for a user."""
        kept = folder(self.served.tmp / f"signer-{service}", self.served.authority.service(service))
        signer = DelegationSigner(lambda: kept.current())  # type: ignore[arg-type,return-value]
        return signer.token(user_id(user), purpose, 60.0)

    async def create(self, dataset_id: str = "clients") -> pb.Dataset:
        request = pb.CreateDatasetRequest(dataset_id=dataset_id, contract=contract_message())
        return await self.user("ana").call("CreateDataset", request)

    async def append(
        self, *tables: pa.Table, dataset: str = "datasets/clients", request_id: str = "", user: str = "ana"
    ) -> pb.AppendRecordsResponse:
        request_id = request_id or str(uuid.uuid4())
        return await self.user(user).send("AppendRecords", messages(dataset, request_id, [ipc(t) for t in tables]))

    async def open(self, purpose: str, *columns: str, user: str = "ben", **fields: Any) -> pb.Snapshot:
        request = pb.OpenSnapshotRequest(dataset="datasets/clients", columns=columns, **fields)
        return await self.user(user).call("OpenSnapshot", request, purpose=purpose)

    def grant(self, snapshot: pb.Snapshot) -> Grant:
        public = self.signing_key.public_key().public_bytes_raw()
        return verify_grant({1: public}, snapshot.grant, dt.datetime.now(dt.UTC))

    def read(self, snapshot: pb.Snapshot, principal: str) -> pa.Table:
        """Return the rows of a snapshot, each key unwrapped on the strength of its grant."""

        def unwrap(key: str, wrapped: bytes) -> bytes:
            self.grant(snapshot).require(key, principal)
            return self.keys.unwrap(key, wrapped)

        schema = CONTRACT.schema()
        reader = SnapshotReader(
            location=snapshot.location,
            files=list(snapshot.files),
            schema=pa.schema([schema.field(name) for name in snapshot.columns]),
            unwrap=unwrap,
        )
        return reader.table()


async def messages(dataset: str, request_id: str, contents: Sequence[bytes]) -> AsyncIterator[pb.AppendRecordsRequest]:
    """Yield the messages of an append."""
    first = True
    for content in contents or [b""]:
        named = {"dataset": dataset, "request_id": request_id} if first else {}
        yield pb.AppendRecordsRequest(arrow_ipc=content, **named)
        first = False


@pytest.fixture
async def ingestion(tmp_path: Path) -> AsyncIterator[Ingestion]:
    keys, signing_key = Keys(), Ed25519PrivateKey.generate()
    database, store = open_store(tmp_path)
    workers = Workers(2)

    async def sign(payload: bytes) -> tuple[bytes, int]:
        return signing_key.sign(payload), 1

    servicer = IngestionService(
        open_catalog(tmp_path, store, keys),
        workers,
        sign=sign,
        limits=AppendLimits(max_bytes=1 << 20, max_total_bytes=2 << 20, max_quarantined_rows=100),
        grant_life=dt.timedelta(minutes=5),
        now=lambda: dt.datetime.now(dt.UTC),
    )
    async with serving(tmp_path / "serving", [rpc_service(servicer)], name="ingestion") as served:
        yield Ingestion(served, keys, signing_key)
    await workers.close()
    database.close()


__all__ = ["Ingestion", "service_id"]
