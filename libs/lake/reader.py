"""Reads one snapshot of a table: only the files it lists, only sealed ones, only the columns it covers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from hedgerow.errors import PermissionDeniedError
from libs.lake import sealed_file
from libs.lake.folder import check_data_file
from libs.lake.keyring import Keyring, Unwrap
from libs.lake.storage import LOCAL_STORAGE, LakeStorage

BATCH_ROWS = 65_536


class SnapshotReader:
    """Opens the files of a snapshot that ingestion granted. Blocks; use it from a worker thread.

    Keys are unwrapped on first use and forgotten with the reader.
    """

    def __init__(
        self,
        *,
        location: str,
        files: Sequence[str],
        schema: pa.Schema,
        unwrap: Unwrap,
        storage: LakeStorage = LOCAL_STORAGE,
    ) -> None:
        """Take a snapshot as ingestion granted it.

        Args:
            location: the table's folder, such as ``file:///srv/lake/clients``.
            files: file names relative to it.
            schema: of the columns the snapshot covers.
            unwrap: asks the key service, with the snapshot's grant.
            storage: how the object store is reached.

        Raises:
            DataLossError: a file name is not one that the lake makes.
        """
        self._folder = storage.folder(location)
        self._files = [check_data_file(name) for name in files]
        self._schema = schema.remove_metadata()
        self._ring = Keyring(unwrap=unwrap)

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return all rows.

        Args:
            columns: in the order wanted; None means all that the snapshot covers.

        Raises:
            PermissionDeniedError: a column is not covered, or the key service refuses its key.
            DataLossError: a file is not sealed, was changed, or is not the file its name says.
            AbortedError: a file was destroyed since the snapshot was opened; open it again.
        """
        schema = self._selected(columns)
        parts = [schema.empty_table()]
        for name in self._files:
            with sealed_file.opened(self._folder, name, self._ring) as file:
                parts.append(sealed_file.strip(file.read(columns=schema.names)).select(schema.names).cast(schema))
        return pa.concat_tables(parts)

    def batches(self, columns: Sequence[str] | None = None, *, rows: int = BATCH_ROWS) -> pa.RecordBatchReader:
        """Return a reader that decrypts batch by batch, so that memory stays within one row group of one file.

        Args:
            columns: in the order wanted; None means all that the snapshot covers.
            rows: at most so many in a batch.

        Raises:
            PermissionDeniedError: a column is not covered. Reading raises what ``table`` raises.
        """
        schema = self._selected(columns)
        return pa.RecordBatchReader.from_batches(schema, self._iterate(schema, rows))

    def _iterate(self, schema: pa.Schema, rows: int) -> Iterator[pa.RecordBatch]:
        for name in self._files:
            with sealed_file.opened(self._folder, name, self._ring) as file:
                for batch in file.iter_batches(batch_size=rows, columns=schema.names):
                    yield batch.replace_schema_metadata(None).select(schema.names).cast(schema)

    def _selected(self, columns: Sequence[str] | None) -> pa.Schema:
        if columns is None:
            return self._schema
        refused = [name for name in columns if name not in self._schema.names]
        if refused:
            raise PermissionDeniedError(
                f"the snapshot does not cover {', '.join(refused)}; open one that names them",
                reason="GRANT_INVALID",
                metadata={"columns": ",".join(refused)},
            )
        return pa.schema([self._schema.field(name) for name in columns])
