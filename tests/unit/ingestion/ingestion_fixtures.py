"""A contract, rows and keys for the tests of ingestion."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path

import pyarrow as pa

from libs.lake import SnapshotReader, pseudonym
from libs.sql import Database, open_database
from services.ingestion.catalog import Catalog, OpenDataset
from services.ingestion.contract import Column, ColumnType, Contract
from services.ingestion.store import IngestionStore
from tests.unit.lake.lake_fixtures import KeyService

MIGRATIONS = Path("services/ingestion/migrations").resolve()
NOW = 1_132_900_000.0
CONTRACT = Contract(
    columns=(
        Column("client_id", ColumnType.STRING, tags=("pii",), pseudonymize=True),
        Column("opened_at", ColumnType.TIMESTAMP),
        Column("limit", ColumnType.INT64, nullable=True, tags=("sensitive",), minimum=0, maximum=1_000_000),
        Column("ratio", ColumnType.FLOAT64, nullable=True, minimum=-1.5, maximum=1.5),
        Column("active", ColumnType.BOOL, nullable=True),
        Column("city", ColumnType.STRING, nullable=True),
        Column("sex", ColumnType.STRING, nullable=True, tags=("sensitive",), purposes=("fairness_audit",)),
    ),
    key_columns=("client_id",),
    event_time_column="opened_at",
    subject_column="client_id",
    pseudonym_domain="credit",
    purposes=("credit_risk",),
    legal_basis="contract",
    retention_days=365,
)


class Keys(KeyService):
    """The secrets service in memory."""

    def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        plaintext = hashlib.sha256(key.encode()).digest()
        return plaintext, self.wrap(key, plaintext)

    def pseudonym_key(self, domain: str) -> bytes:
        return hashlib.sha256(domain.encode()).digest()


def subject(value: str, domain: str = "credit") -> str:
    """Return the pseudonym that ``Keys`` leads to."""
    return pseudonym(hashlib.sha256(domain.encode()).digest(), value)


def ipc(table: pa.Table, compression: str | None = None) -> bytes:
    """Return a complete Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def table_of(*clients: str | None, **columns: object) -> pa.Table:
    """Return rows of the contract, one per client, other columns all null or as given."""
    count = len(clients)
    values: dict[str, object] = {
        "client_id": pa.array(clients, pa.string()),
        "opened_at": pa.array([1_112_227_200] * count, pa.timestamp("s", "UTC")),
    }
    for column in CONTRACT.columns[2:]:
        values[column.name] = pa.nulls(count)
    return pa.table(values | columns)


def open_store(folder: Path, *, max_datasets: int = 10) -> tuple[Database, IngestionStore]:
    """Return a real encrypted database and its store."""
    database = open_database(folder / "ingestion.db", bytes(32), MIGRATIONS)
    return database, IngestionStore(database, max_datasets=max_datasets)


def open_catalog(folder: Path, store: IngestionStore, keys: Keys) -> Catalog:
    """Return the catalog of a service started in a folder."""
    return Catalog(store, keys, (folder / "lake").as_uri(), now=lambda: NOW)


def read(opened: OpenDataset, keys: Keys, *columns: str, version: int | None = None) -> pa.Table:
    """Return rows of a dataset as another service reads them."""
    found = opened.table.snapshot(version)
    reader = SnapshotReader(
        location=found.location, files=found.files, schema=opened.contract.schema(), unwrap=keys.unwrap
    )
    return reader.table(columns or None)


def changed(**fields: object) -> Contract:
    """Return the contract with other fields."""
    return dataclasses.replace(CONTRACT, **fields)  # type: ignore[arg-type]


def with_column(which: str, /, **fields: object) -> Contract:
    """Return the contract with one column changed."""
    columns = tuple(dataclasses.replace(c, **fields) if c.name == which else c for c in CONTRACT.columns)  # type: ignore[arg-type]
    return changed(columns=columns)
