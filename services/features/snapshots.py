"""Source rows from ingestion: contracts and snapshots, always for the principal who asked.

The only client of ingestion in this service. A snapshot is opened while the caller waits, so that a refusal reaches
the caller; its files are read afterwards, on the strength of the grant that came with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from hedgerow.client import ServiceClient
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from libs.lake import LOCAL_STORAGE, LakeStorage, SnapshotReader, arrow_schema
from services.features.source import ColumnType, SourceColumn, SourceContract
from services.features.workers import Stop

_TYPES = {
    pb.Column.TYPE_STRING: ColumnType.STRING,
    pb.Column.TYPE_INT64: ColumnType.INT64,
    pb.Column.TYPE_FLOAT64: ColumnType.FLOAT64,
    pb.Column.TYPE_BOOL: ColumnType.BOOL,
    pb.Column.TYPE_TIMESTAMP: ColumnType.TIMESTAMP,
}
UnwrapKey = Callable[[str, bytes, str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Asker:
    """For whom and why source rows are read.

    Attributes:
        purpose: as the caller stated it.
        token: the on-behalf-of token.
        timeout: seconds that a call to ingestion may take.
    """

    purpose: str
    token: str
    timeout: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Read access to one version of a dataset.

    Attributes:
        read: returns all rows of the columns asked for; blocks; the argument is called now and then and may raise.
    """

    contract: SourceContract
    version: int
    read: Callable[[Stop], pa.Table]


class Snapshots(Protocol):
    """Where source rows come from. Both methods raise what ingestion answers."""

    async def contract(self, dataset: str, asker: Asker) -> SourceContract:
        """Return the contract of a dataset."""

    async def open(self, dataset: str, columns: Sequence[str], asker: Asker) -> Snapshot:
        """Open the latest version of a dataset."""


class IngestionSnapshots:
    """`Snapshots` from the ingestion service."""

    def __init__(
        self,
        client: ServiceClient,
        *,
        unwrap: UnwrapKey,
        wait: Callable[[Any], bytes],
        storage: LakeStorage = LOCAL_STORAGE,
    ) -> None:
        """Take the means.

        Args:
            client: of `IngestionService`.
            unwrap: unwraps (key name, wrapped bytes, grant).
            wait: runs a coroutine from a worker thread and returns its result.
            storage: how the lake's object store is reached.
        """
        self._client = client
        self._storage = storage
        self._unwrap = unwrap
        self._wait = wait

    async def contract(self, dataset: str, asker: Asker) -> SourceContract:
        """See `Snapshots.contract`."""
        request = pb.GetDatasetRequest(name=dataset)
        answer = await self._client.call(
            "GetDataset", request, timeout=asker.timeout, purpose=asker.purpose, on_behalf_of=asker.token
        )
        return contract_from_proto(dataset, answer.contract)

    async def open(self, dataset: str, columns: Sequence[str], asker: Asker) -> Snapshot:
        """See `Snapshots.open`."""
        request = pb.OpenSnapshotRequest(dataset=dataset, columns=columns)
        answer = await self._client.call(
            "OpenSnapshot", request, timeout=asker.timeout, purpose=asker.purpose, on_behalf_of=asker.token
        )
        contract = contract_from_proto(dataset, answer.contract)
        return Snapshot(contract, answer.version, lambda stop: self._read(answer, contract, columns, stop))

    def _read(self, granted: pb.Snapshot, contract: SourceContract, columns: Sequence[str], stop: Stop) -> pa.Table:
        nullable = {column.name: column.nullable for column in granted.contract.columns}
        reader = SnapshotReader(
            location=granted.location,
            files=list(granted.files),
            schema=arrow_schema(
                (column.name, column.type.value, nullable[column.name])
                for column in contract.in_order(frozenset(columns))
            ),
            storage=self._storage,
            unwrap=lambda key, wrapped: self._wait(self._unwrap(key, wrapped, granted.grant)),
        )
        batches = reader.batches()
        return pa.Table.from_batches(_until(stop, batches), batches.schema)


def _until(stop: Stop, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        stop()
        yield batch


async def contracts(snapshots: Snapshots, datasets: Sequence[str], asker: Asker) -> dict[str, SourceContract]:
    """Return the contracts of datasets by name."""
    names = sorted(set(datasets))
    return dict(zip(names, await asyncio.gather(*(snapshots.contract(name, asker) for name in names)), strict=True))


def contract_from_proto(dataset: str, contract: pb.Contract) -> SourceContract:
    """Return what features need of a contract, the purposes of each column resolved as ingestion does it.

    A column's purposes are its own, else the contract's. Keys and times place a row, so without purposes of their own
    they serve whatever any column serves.
    """
    placing = {*contract.key_columns, contract.event_time_column, contract.known_time_column}
    every = frozenset(contract.purposes).union(*(column.purposes for column in contract.columns))
    return SourceContract(
        dataset=dataset,
        columns=tuple(
            SourceColumn(
                name=column.name,
                type=_TYPES[column.type],
                purposes=frozenset(column.purposes or (every if column.name in placing else contract.purposes)),
                tags=frozenset(column.tags),
                outcome=column.outcome,
                pseudonymized=column.pseudonymize,
            )
            for column in contract.columns
        ),
        event_time_column=contract.event_time_column,
        known_time_column=contract.known_time_column,
        subject_column=contract.subject_column,
        pseudonym_domain=contract.pseudonym_domain,
    )
