"""Client of the ingestion service."""

import uuid
from collections.abc import AsyncIterator, Callable, Sequence

import pyarrow as pa

from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from hedgerow.sdk import arrow
from hedgerow.sdk.facade import WRITE_SECONDS, Facade


class Ingestion(Facade):
    """Datasets, their contracts, and what is in them."""

    async def create_dataset(self, dataset_id: str, contract: pb.Contract) -> pb.Dataset:
        """Creates a dataset; the same contract again returns the one that exists."""
        request = pb.CreateDatasetRequest(dataset_id=dataset_id, contract=contract)
        dataset: pb.Dataset = await self._call("CreateDataset", request, timeout=WRITE_SECONDS)
        return dataset

    async def get_dataset(self, name: str) -> pb.Dataset:
        """Returns `datasets/{dataset}`."""
        dataset: pb.Dataset = await self._call("GetDataset", pb.GetDatasetRequest(name=name))
        return dataset

    def list_datasets(self) -> AsyncIterator[pb.Dataset]:
        """Yields all datasets by name."""
        return self._pages("ListDatasets", pb.ListDatasetsRequest(), "datasets")

    async def append(
        self,
        dataset: str,
        table: pa.Table,
        *,
        request_id: str = "",
        timeout: float = WRITE_SECONDS,
        progress: Callable[[float], None] | None = None,
    ) -> pb.AppendRecordsResponse:
        """Appends a table as one version, in messages of at most 4 MiB.

        Tries again when the service is away, a few times within `timeout` seconds: the request id, made up when empty,
        makes the server append once. `progress` is told how much of the table is sent, from 0 to 1.
        """
        request_id = request_id or str(uuid.uuid4())
        response: pb.AppendRecordsResponse = await self._client.send_again(
            "AppendRecords",
            lambda: _requests(dataset, table, request_id, progress or (lambda share: None)),
            timeout=timeout,
            purpose=self._purpose,
        )
        return response

    def list_quarantined_records(self, dataset: str) -> AsyncIterator[pb.QuarantinedRecord]:
        """Yields the quarantined rows of a dataset, newest first."""
        request = pb.ListQuarantinedRecordsRequest(dataset=dataset)
        return self._pages("ListQuarantinedRecords", request, "records")

    async def open_snapshot(self, dataset: str, version: int = 0, columns: Sequence[str] = ()) -> pb.Snapshot:
        """Asks for read access to one version; 0 is the latest."""
        request = pb.OpenSnapshotRequest(dataset=dataset, version=version, columns=columns)
        snapshot: pb.Snapshot = await self._call("OpenSnapshot", request)
        return snapshot


async def _requests(
    dataset: str, table: pa.Table, request_id: str, progress: Callable[[float], None]
) -> AsyncIterator[pb.AppendRecordsRequest]:
    first, sent = True, 0
    for message in arrow.to_messages(table):
        if first:
            yield pb.AppendRecordsRequest(dataset=dataset, request_id=request_id, arrow_ipc=message)
            first = False
        else:
            yield pb.AppendRecordsRequest(arrow_ipc=message)
        sent += len(message)
        progress(min(1.0, sent / max(table.nbytes, 1)))
