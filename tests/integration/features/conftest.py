"""The features service and the ingestion service on real ports with the whole chain; keys in memory."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.timestamp_pb2 import Timestamp

from hedgerow.client import ServiceClient
from hedgerow.features.v1 import features_pb2 as pb
from hedgerow.ingestion.v1 import ingestion_pb2
from libs.identity.grants import verify_grant
from services.features.access import Describer
from services.features.pseudonyms import Pseudonyms
from services.features.service import FeaturesServicer, rpc_service
from services.features.snapshots import IngestionSnapshots
from services.ingestion import service as ingestion_service
from services.ingestion.append import AppendLimits
from services.ingestion.workers import Workers
from tests.support.authority import Authority, service_id
from tests.support.serving import Served, serving
from tests.unit.features.workbench import Workbench, workbench
from tests.unit.ingestion.ingestion_fixtures import Keys, ipc, open_catalog, open_store

FEATURES = pb.DESCRIPTOR.services_by_name["FeaturesService"]
INGESTION = ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"]
Column = ingestion_pb2.Column
STATEMENTS = ingestion_pb2.Contract(
    columns=[
        Column(name="client_id", type=Column.TYPE_STRING, tags=["pii"], pseudonymize=True),
        Column(name="statement_time", type=Column.TYPE_TIMESTAMP),
        Column(name="known_time", type=Column.TYPE_TIMESTAMP),
        Column(name="pay_delay", type=Column.TYPE_INT64, nullable=True, tags=["sensitive"]),
        Column(name="amount", type=Column.TYPE_FLOAT64, nullable=True),
        Column(name="sex", type=Column.TYPE_STRING, nullable=True, purposes=["fairness_audit"]),
    ],
    key_columns=["client_id"],
    event_time_column="statement_time",
    known_time_column="known_time",
    subject_column="client_id",
    pseudonym_domain="credit",
    purposes=["credit_risk"],
    legal_basis="contract",
    retention_days=3650,
)
ACCOUNTS = ingestion_pb2.Contract(
    columns=[
        Column(name="account", type=Column.TYPE_INT64),
        Column(name="opened", type=Column.TYPE_TIMESTAMP),
        Column(name="balance", type=Column.TYPE_FLOAT64),
    ],
    key_columns=["account"],
    event_time_column="opened",
    purposes=["credit_risk"],
    legal_basis="contract",
    retention_days=3650,
)


def time(text: str) -> Timestamp:
    """A UTC time as a timestamp."""
    stamp = Timestamp()
    stamp.FromDatetime(dt.datetime.fromisoformat(text))
    return stamp


def statements(*rows: tuple[str, str, str, int | None, float | None]) -> pa.Table:
    """Rows of (client, event, known, delay, amount)."""
    utc = pa.timestamp("us", tz="UTC")
    instants = [[dt.datetime.fromisoformat(row[i]).replace(tzinfo=dt.UTC) for row in rows] for i in (1, 2)]
    return pa.table(
        {
            "client_id": pa.array([row[0] for row in rows]),
            "statement_time": pa.array(instants[0], utc),
            "known_time": pa.array(instants[1], utc),
            "pay_delay": pa.array([row[3] for row in rows], pa.int64()),
            "amount": pa.array([row[4] for row in rows], pa.float64()),
            "sex": pa.array(["F"] * len(rows)),
        }
    )


def monthly(clients: int) -> pa.Table:
    """Six statements for each client."""
    random = np.random.default_rng(5)
    return statements(
        *(
            (f"client-{client}", f"2005-0{month}-28", f"2005-0{month}-28", int(random.integers(-1, 3)), random.normal())
            for client in range(clients)
            for month in range(4, 10)
        )
    )


@dataclass
class Pair:
    """Both services and clients of them."""

    features: Served
    ingestion: Served
    bench: Workbench
    keys: Keys
    clients: dict[tuple[str, str], ServiceClient] = field(default_factory=dict)

    def user(self, name: str) -> ServiceClient:
        """A person's client of features."""
        return self._client("user", name, self.features)

    def service(self, name: str) -> ServiceClient:
        """A service's client of features."""
        return self._client("service", name, self.features)

    def _client(self, kind: str, name: str, served: Served) -> ServiceClient:
        if (kind, name) not in self.clients:
            authority = served.authority
            identity = authority.user(name) if kind == "user" else authority.service(name)
            self.clients[kind, name] = served.client(identity, FEATURES)
        return self.clients[kind, name]

    async def ask(self, method: str, request: Any, *, user: str = "ana", purpose: str = "credit_risk") -> Any:
        """Call features."""
        return await self.user(user).call(method, request, purpose=purpose, timeout=20)

    async def dataset(self, dataset_id: str, contract: ingestion_pb2.Contract, rows: pa.Table) -> None:
        """Create a dataset and append rows to it."""
        ana = self.ingestion.client(self.ingestion.authority.user("ana"), INGESTION)
        request = ingestion_pb2.CreateDatasetRequest(dataset_id=dataset_id, contract=contract)
        await ana.call("CreateDataset", request)
        await self.append(dataset_id, rows)

    async def append(self, dataset_id: str, rows: pa.Table) -> None:
        """Append rows to a dataset."""
        ana = self.ingestion.client(self.ingestion.authority.user("ana"), INGESTION)
        message = ingestion_pb2.AppendRecordsRequest(
            dataset=f"datasets/{dataset_id}", request_id=str(uuid.uuid4()), arrow_ipc=ipc(rows)
        )

        async def messages() -> AsyncIterator[ingestion_pb2.AppendRecordsRequest]:
            yield message

        answer = await ana.send("AppendRecords", messages())
        assert (answer.row_count, answer.quarantined_row_count) == (rows.num_rows, 0)

    async def view(self, view_id: str, *features: pb.Feature, dataset: str = "statements", **fields: Any) -> Any:
        """Create a view."""
        wanted = pb.FeatureView(
            dataset=f"datasets/{dataset}",
            entity_column=fields.pop("entity_column", "client_id"),
            features=features,
            **fields,
        )
        return await self.ask(
            "CreateFeatureView", pb.CreateFeatureViewRequest(feature_view_id=view_id, feature_view=wanted)
        )

    async def service_of(self, service_id: str, *view_ids: str) -> Any:
        """Create a feature service."""
        wanted = pb.FeatureService(feature_views=[f"featureViews/{each}" for each in view_ids])
        request = pb.CreateFeatureServiceRequest(feature_service_id=service_id, feature_service=wanted)
        return await self.ask("CreateFeatureService", request)

    async def training_set(self, training_set_id: str, *cutoffs: pb.LabelCutoff, user: str = "ben") -> Any:
        """Create a training set of `credit` and return how it ended."""
        wanted = pb.TrainingSet(feature_service="featureServices/credit", cutoffs=cutoffs)
        request = pb.CreateTrainingSetRequest(training_set_id=training_set_id, training_set=wanted)
        name = (await self.ask("CreateTrainingSet", request, user=user)).name
        watched = self.user(user).stream("WatchTrainingSet", pb.WatchTrainingSetRequest(name=name), timeout=20)
        return [state async for state in watched][-1]

    async def materialize(self, service: str, as_of: str) -> Any:
        """Materialize and return how it ended."""
        request = pb.CreateMaterializationRequest(feature_service=service, as_of_time=time(as_of))
        name = (await self.ask("CreateMaterialization", request)).name
        watched = self.user("ana").stream("WatchMaterialization", pb.WatchMaterializationRequest(name=name), timeout=20)
        return [state async for state in watched][-1]

    async def rows(self, name: str) -> pa.Table:
        """Read a training set."""
        parts = self.user("ben").stream(
            "ReadTrainingSet", pb.ReadTrainingSetRequest(name=name), purpose="credit_risk", timeout=20
        )
        return pa.concat_tables([pa.ipc.open_stream(part.arrow_ipc).read_all() async for part in parts])


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Pair]:
    """Both services, started and empty."""
    authority, keys, signing_key = Authority(), Keys(), Ed25519PrivateKey.generate()
    async with AsyncExitStack() as stack:
        ingestion = await stack.enter_async_context(_ingestion(tmp_path, authority, keys, signing_key, stack))
        loop = asyncio.get_running_loop()

        async def unwrap(key: str, wrapped: bytes, grant: str) -> bytes:
            public = {1: signing_key.public_key().public_bytes_raw()}
            verify_grant(public, grant, dt.datetime.now(dt.UTC)).require(key, service_id("features"))
            return keys.unwrap(key, wrapped)

        def wait(coroutine: Coroutine[Any, Any, bytes]) -> bytes:
            return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

        async def domain_key(domain: str) -> bytes:
            return keys.pseudonym_key(domain)

        snapshots = IngestionSnapshots(
            ingestion.client(authority.service("features"), INGESTION), unwrap=unwrap, wait=wait
        )
        (tmp_path / "features").mkdir()
        bench = await stack.enter_async_context(workbench(tmp_path / "features", snapshots))
        servicer = FeaturesServicer(
            store=bench.store,
            definitions=bench.definitions,
            snapshots=snapshots,
            builds=bench.builds,
            online=bench.online,
            files=bench.files,
            unwrap=bench.unwrap,
            eraser=bench.eraser,
            pseudonyms=Pseudonyms(domain_key),
            feed=bench.feed,
        )
        service = rpc_service(servicer, Describer(bench.store, bench.definitions))
        served = await stack.enter_async_context(
            serving(tmp_path / "features-serving", [service], name="features", authority=authority)
        )
        yield Pair(served, ingestion, bench, keys)


def _ingestion(
    folder: Path, authority: Authority, keys: Keys, signing_key: Ed25519PrivateKey, stack: AsyncExitStack
) -> Any:
    database, store = open_store(folder)
    stack.callback(database.close)
    workers = Workers(2)
    stack.push_async_callback(workers.close)

    async def sign(payload: bytes) -> tuple[bytes, int]:
        return signing_key.sign(payload), 1

    servicer = ingestion_service.IngestionService(
        open_catalog(folder, store, keys),
        workers,
        sign=sign,
        limits=AppendLimits(max_bytes=1 << 24, max_total_bytes=1 << 25, max_quarantined_rows=100),
        grant_life=dt.timedelta(minutes=5),
        now=lambda: dt.datetime.now(dt.UTC),
    )
    return serving(
        folder / "ingestion-serving",
        [ingestion_service.rpc_service(servicer)],
        name="ingestion",
        authority=authority,
    )
