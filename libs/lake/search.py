"""Finds a pseudonym in any object of a table: sealed files are decrypted, anything else is read as it is."""

from __future__ import annotations

import threading
from collections import OrderedDict
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hedgerow.errors import DataLossError
from libs.lake import sealed_file
from libs.lake.folder import TableFolder
from libs.lake.keyring import Keyring

_SUBJECTS = 4


class Searched:
    """Remembers which objects of a table do not hold a subject, so that a search that was stopped can go on.

    For the latest few subjects. Objects go by name and time of writing: one that was written since is another.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subjects: OrderedDict[str, dict[str, datetime]] = OrderedDict()

    def of(self, pseudonym: str) -> dict[str, datetime]:
        """Return what is remembered of a subject, to be added to."""
        with self._lock:
            objects = self._subjects.setdefault(pseudonym, {})
            self._subjects.move_to_end(pseudonym)
            if len(self._subjects) > _SUBJECTS:
                self._subjects.popitem(last=False)
            return objects

    def forget(self, pseudonym: str) -> None:
        """Forget a subject, since the search has ended."""
        with self._lock:
            self._subjects.pop(pseudonym, None)


def holds(column: pa.ChunkedArray | pa.Array, pseudonym: str) -> pa.ChunkedArray | pa.Array:
    """Return, per value of a text column, whether it is the pseudonym; null is no."""
    return pc.fill_null(pc.equal(column, pa.scalar(pseudonym, type=pa.string())), False)


def rows_holding(rows: pa.Table, pseudonym: str) -> pa.ChunkedArray:
    """Return, per row, whether any text column is the pseudonym: a boolean column of ``rows.num_rows`` values."""
    mask: pa.ChunkedArray = pa.chunked_array([pa.nulls(rows.num_rows, pa.bool_()).fill_null(False)])
    for field in rows.schema:
        if pa.types.is_string(field.type):
            mask = pc.or_(mask, holds(rows.column(field.name), pseudonym))
    return mask


def text_columns(file: pq.ParquetFile) -> list[str]:
    """Return the names of a file's text columns."""
    return [field.name for field in file.schema_arrow if pa.types.is_string(field.type)]


def count_in_sealed(folder: TableFolder, name: str, ring: Keyring, pseudonym: str) -> int:
    """Return how many rows of a sealed file hold the pseudonym.

    Raises:
        DataLossError: the file cannot be opened, so nothing can be said of it.
    """
    hits = 0
    with sealed_file.opened(folder, name, ring) as file:
        for batch in file.iter_batches(columns=text_columns(file)):
            mask = rows_holding(pa.Table.from_batches([batch]), pseudonym)
            hits += pc.sum(mask).as_py() or 0
    return hits


def count_in_object(folder: TableFolder, name: str, ring: Keyring, pseudonym: str) -> int:
    """Return how many rows, or occurrences in an object that is no table, hold the pseudonym.

    Raises:
        DataLossError: a sealed file cannot be opened.
        FileNotFoundError: the object is gone.
    """
    with folder.open(name) as source:
        magic = source.read(4)
    if magic == sealed_file.SEALED_MAGIC:
        return count_in_sealed(folder, name, ring, pseudonym)
    if magic == sealed_file.PLAIN_MAGIC:
        return _count_in_plain(folder, name, pseudonym)
    return folder.read(name).count(pseudonym.encode())


def _count_in_plain(folder: TableFolder, name: str, pseudonym: str) -> int:
    """Search a Parquet file in clear, such as a checkpoint of the log, whose pages are compressed.

    Raises:
        DataLossError: it cannot be read.
        FileNotFoundError: it is gone.
    """
    try:
        with folder.open(name) as source:
            rows = pq.read_table(source).to_pylist()
    except FileNotFoundError:
        raise  # such as a checkpoint that the log was still writing, which has its name by now
    except (pa.ArrowException, OSError) as error:
        raise DataLossError(f"{name} cannot be read", metadata={"file": name}) from error
    return sum(pseudonym in repr(row) for row in rows)
