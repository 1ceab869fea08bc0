"""The RPCs of ``hedgerow.ingestion.v1``: messages in, use cases called, messages out."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import asdict

from google.protobuf.timestamp_pb2 import Timestamp

from hedgerow import names
from hedgerow.errors import InvalidArgumentError
from hedgerow.governance.v1 import governance_pb2
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from libs.authz import Resource, ResourceAttributes
from libs.authz.resource import NO_ATTRIBUTES, SUITE
from libs.identity.grants import make_grant
from libs.rpc.call import Call
from libs.rpc.service import MIB, Access, Audit, Service
from services.ingestion.append import Appending, AppendLimits, ByteBudget, check_request_id
from services.ingestion.catalog import Catalog, OpenDataset
from services.ingestion.contract import Column, ColumnType, Contract
from services.ingestion.dataset import QuarantineEntry
from services.ingestion.erasure import check_subject, erase_subject
from services.ingestion.metrics import AppendCounts
from services.ingestion.workers import Stop, Workers

DATASET = "datasets/{dataset}"
ERASURE_REQUEST = "erasureRequests/{erasure_request}"
MAX_ARROW_BYTES = 16 * MIB
MAX_ENTRY_DIGITS = 18
_TYPES = {
    pb.Column.TYPE_STRING: ColumnType.STRING,
    pb.Column.TYPE_INT64: ColumnType.INT64,
    pb.Column.TYPE_FLOAT64: ColumnType.FLOAT64,
    pb.Column.TYPE_BOOL: ColumnType.BOOL,
    pb.Column.TYPE_TIMESTAMP: ColumnType.TIMESTAMP,
}
_TYPE_NUMBERS = {word: number for number, word in _TYPES.items()}
Sign = Callable[[bytes], Awaitable[tuple[bytes, int]]]


class IngestionService:
    """Handlers of IngestionService."""

    def __init__(
        self,
        catalog: Catalog,
        workers: Workers,
        *,
        sign: Sign,
        limits: AppendLimits,
        grant_life: dt.timedelta,
        now: Callable[[], dt.datetime],
    ) -> None:
        """Take what the handlers work with.

        Args:
            catalog: the datasets.
            workers: threads for work on the lake.
            sign: signs with ``signingKeys/ingestion-grants``; returns signature and key version.
            limits: of appends.
            grant_life: how long a snapshot can be read.
            now: the time, with zone.
        """
        self._catalog = catalog
        self._workers = workers
        self._sign = sign
        self._limits = limits
        self._budget = ByteBudget(limits.max_total_bytes)
        self._grant_life = grant_life
        self._now = now
        self.counts = AppendCounts()

    async def describe(self, resource: Resource) -> ResourceAttributes:
        """Return what policies can ask of a dataset: the purposes and tags of all its columns.

        A column may allow less than the dataset; OpenSnapshot holds each column to its own.

        Raises:
            NotFoundError: there is no such dataset.
        """
        if resource.kind != "Dataset":
            return NO_ATTRIBUTES
        try:
            dataset_id = _dataset_id(resource.name, "name")
        except InvalidArgumentError:
            return NO_ATTRIBUTES  # the handler says so, to whoever policy lets through
        contract = await asyncio.to_thread(self._catalog.contract, dataset_id)
        return ResourceAttributes(contract.all_purposes, contract.tags, "ingestion")

    async def create_dataset(self, request: pb.CreateDatasetRequest, call: Call) -> pb.Dataset:
        """Create a dataset under a contract."""
        contract = _contract_from(request.contract)
        opened = await self._workers.run(lambda _: self._catalog.create(request.dataset_id, contract))
        return await self._dataset(opened)

    async def get_dataset(self, request: pb.GetDatasetRequest, call: Call) -> pb.Dataset:
        """Return a dataset."""
        return await self._dataset(await self._opened(request.name, "name"))

    async def list_datasets(self, request: pb.ListDatasetsRequest, call: Call) -> pb.ListDatasetsResponse:
        """List datasets by name."""
        size = names.page_size(request.page_size)
        after = names.decode_page_token(request.page_token) or ""
        found = await asyncio.to_thread(self._catalog.store.datasets_after, after, size + 1)
        opened = [await self._opened(names.build(DATASET, dataset=d.id), "name") for d in found[:size]]
        return pb.ListDatasetsResponse(
            datasets=[await self._dataset(dataset) for dataset in opened],
            next_page_token=names.encode_page_token(found[size - 1].id) if len(found) > size else "",
        )

    async def append_records(
        self, requests: AsyncIterator[pb.AppendRecordsRequest], call: Call
    ) -> pb.AppendRecordsResponse:
        """Append Arrow record batches as one version."""
        first = await anext(requests)
        request_id = check_request_id(first.request_id)
        opened = await self._opened(first.dataset, "dataset")
        done = await asyncio.to_thread(self._catalog.store.find_append, opened.id, request_id)
        if done is None:
            with Appending(self._catalog, opened, request_id, limits=self._limits, budget=self._budget) as appending:
                await self._add(appending, first.arrow_ipc)
                async for request in requests:
                    _check_same(first, request)
                    await self._add(appending, request.arrow_ipc)
                done = await self._workers.run(lambda _: appending.commit())
            self.counts.add(opened.id, done.row_count, done.quarantined_row_count)
        call.audit_detail.update(rows=done.row_count, quarantined=done.quarantined_row_count)
        return pb.AppendRecordsResponse(**asdict(done))

    async def list_quarantined_records(
        self, request: pb.ListQuarantinedRecordsRequest, call: Call
    ) -> pb.ListQuarantinedRecordsResponse:
        """List quarantined rows, newest first."""
        size = names.page_size(request.page_size)
        before = _entry_before(request.page_token)
        opened = await self._opened(request.dataset, "dataset")
        found = await asyncio.to_thread(self._catalog.store.quarantined_before, opened.id, before, size + 1)
        return pb.ListQuarantinedRecordsResponse(
            records=[_quarantined(entry) for entry in found[:size]],
            next_page_token=names.encode_page_token(str(found[size - 1].id)) if len(found) > size else "",
        )

    async def open_snapshot(self, request: pb.OpenSnapshotRequest, call: Call) -> pb.Snapshot:
        """Grant read access to one version of a dataset."""
        if request.version < 0:
            raise InvalidArgumentError(
                "version must not be negative", fields={"version": "expected 0 for the latest, or a version"}
            )
        opened = await self._opened(request.dataset, "dataset")
        columns = [column.name for column in opened.contract.columns_for(call.purpose, request.columns)]
        snapshot = await self._workers.run(lambda _: opened.table.snapshot(request.version or None))
        expire_time = self._now() + self._grant_life
        grant = await make_grant(
            self._sign,
            keys=opened.contract.layout(opened.id).keys_for(columns),
            grantee=call.caller.principal,
            expire_time=expire_time,
        )
        answer = pb.Snapshot(
            dataset=request.dataset,
            version=snapshot.version,
            location=snapshot.location,
            files=snapshot.files,
            row_count=snapshot.row_count,
            columns=columns,
            grant=grant,
            contract=_contract_to(opened.contract),
        )
        answer.expire_time.FromDatetime(expire_time)
        return answer

    async def erase_subject(self, request: pb.EraseSubjectRequest, call: Call) -> pb.EraseSubjectResponse:
        """Remove a subject from every object of the lake and quarantine."""
        check_subject(request.domain, request.pseudonym)
        names.parse(ERASURE_REQUEST, request.erasure_request, field="erasure_request")

        def erase(stop: Stop) -> Sequence[governance_pb2.StoreErasure]:
            done = erase_subject(self._catalog, request.domain, request.pseudonym, request.erasure_request, stop)
            return [governance_pb2.StoreErasure(service="ingestion", **asdict(store)) for store in done]

        stores = await self._workers.run(erase)
        call.audit_detail.update(rows=sum(store.rows_erased for store in stores))
        return pb.EraseSubjectResponse(stores=stores)

    async def _add(self, appending: Appending, ipc: bytes) -> None:
        if ipc:
            await self._workers.run(lambda _: appending.add(ipc))

    async def _opened(self, name: str, field: str) -> OpenDataset:
        dataset_id = _dataset_id(name, field)
        return await self._workers.run(lambda _: self._catalog.open(dataset_id))

    async def _dataset(self, opened: OpenDataset) -> pb.Dataset:
        latest = await self._workers.run(lambda _: opened.table.snapshot())
        return pb.Dataset(
            name=names.build(DATASET, dataset=opened.id),
            contract=_contract_to(opened.contract),
            version=latest.version,
            row_count=latest.row_count,
            quarantined_row_count=await asyncio.to_thread(self._catalog.store.quarantined_count, opened.id),
            create_time=_time(opened.dataset.create_us),
        )


def rpc_service(servicer: IngestionService) -> Service:
    """Return the service with what each RPC needs of the chain."""
    return Service(
        pb.DESCRIPTOR.services_by_name["IngestionService"],
        servicer,
        area="ingestion",
        describe=servicer.describe,
        access={
            "CreateDataset": Access(lambda r: [Resource("Dataset", f"datasets/{r.dataset_id}")], creates=True),
            "GetDataset": Access(lambda r: [Resource("Dataset", r.name)], Audit.BUFFERED),
            "ListDatasets": Access(lambda r: [SUITE], Audit.BUFFERED),
            "AppendRecords": Access(
                lambda r: [Resource("Dataset", r.dataset)] if r.dataset else [],
                max_message_bytes=MAX_ARROW_BYTES + 1024,
            ),
            "ListQuarantinedRecords": Access(lambda r: [Resource("Dataset", r.dataset)]),
            "OpenSnapshot": Access(lambda r: [Resource("Dataset", r.dataset)]),
            "EraseSubject": Access(lambda r: [Resource("ErasureRequest", r.erasure_request)]),
        },
    )


def _dataset_id(name: str, field: str) -> str:
    return names.parse(DATASET, name, field=field)["dataset"]


def _check_same(first: pb.AppendRecordsRequest, request: pb.AppendRecordsRequest) -> None:
    faults = {
        field: "expected what the first message said, or nothing"
        for field in ("dataset", "request_id")
        if getattr(request, field) not in ("", getattr(first, field))
    }
    if faults:
        raise InvalidArgumentError("one append is of one dataset and one request id", fields=faults)


def _entry_before(page_token: str) -> int | None:
    key = names.decode_page_token(page_token)
    if key is not None and not (key.isdecimal() and len(key) <= MAX_ENTRY_DIGITS):
        raise InvalidArgumentError(
            "page_token is not one that a listing returned", fields={"page_token": "use next_page_token unchanged"}
        )
    return None if key is None else int(key)


def _quarantined(entry: QuarantineEntry) -> pb.QuarantinedRecord:
    return pb.QuarantinedRecord(
        row_index=entry.row_index,
        reason=entry.reason,
        create_time=_time(entry.create_us),
        request_id=entry.request_id,
    )


def _time(micros: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromMicroseconds(micros)
    return stamp


def _contract_from(message: pb.Contract) -> Contract:
    return Contract(
        columns=tuple(_column_from(column) for column in message.columns),
        key_columns=tuple(message.key_columns),
        event_time_column=message.event_time_column,
        known_time_column=message.known_time_column,
        subject_column=message.subject_column,
        pseudonym_domain=message.pseudonym_domain,
        purposes=tuple(message.purposes),
        legal_basis=message.legal_basis,
        retention_days=message.retention_days,
        description=message.description,
    )


def _column_from(message: pb.Column) -> Column:
    return Column(
        name=message.name,
        type=_TYPES.get(message.type),
        nullable=message.nullable,
        tags=tuple(message.tags),
        pseudonymize=message.pseudonymize,
        outcome=message.outcome,
        minimum=message.minimum if message.HasField("minimum") else None,
        maximum=message.maximum if message.HasField("maximum") else None,
        description=message.description,
        purposes=tuple(message.purposes),
    )


def _contract_to(contract: Contract) -> pb.Contract:
    fields = {name: value for name, value in vars(contract).items() if name != "columns"}
    return pb.Contract(columns=[_column_to(column) for column in contract.columns], **fields)


def _column_to(column: Column) -> pb.Column:
    fields = {name: value for name, value in vars(column).items() if name != "type"}
    number = _TYPE_NUMBERS[column.type] if column.type else pb.Column.TYPE_UNSPECIFIED
    return pb.Column(type=number, **fields)
