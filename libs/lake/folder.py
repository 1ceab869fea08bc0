"""The folder of one table: the port between the lake and where it lies.

Two engines have it, ``local_folder`` and ``object_folder``; ``storage`` chooses. Each MUST:

1. have an object on durable storage, closed to others, before ``write``, ``move`` or ``sync`` returns;
2. show an object wholly or not at all under the name that it keeps;
3. name nothing outside the table's location.

``tests/conformance/stores/test_stores_lake.py`` runs one suite on both.
"""

from __future__ import annotations

import os
import re
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime

import pyarrow as pa
from pyarrow import fs

from hedgerow.errors import DataLossError, UnavailableError

LOG = "_delta_log"
# pyarrow gives faults of a store no number, as it gives none to a file that does not authenticate.
_STORE_FAULT = re.compile(r"AWS Error|Azure|google::cloud")
_DATA_FILE = re.compile(r"part-[0-9a-f-]{36}\.parquet")


def new_data_file() -> str:
    """Return a name that no file has had."""
    return f"part-{uuid.uuid4()}.parquet"


def is_data_file(name: str) -> bool:
    """Return whether a name is that of a data file."""
    return _DATA_FILE.fullmatch(name) is not None


def check_data_file(name: str) -> str:
    """Return the name of a data file.

    Raises:
        DataLossError: it is not one this lake makes; nothing outside the table's folder can be named.
    """
    if not is_data_file(name):
        raise DataLossError("a snapshot names a file that this lake did not make")
    return name


class TableFolder(ABC):
    """Objects of one table by their path relative to the table's location.

    Attributes:
        location: the folder as a URI, such as ``file:///srv/lake/clients`` or ``s3://bucket/lake/clients``.
        delta_options: what the Delta library must be told to reach it; holds a secret.
    """

    def __init__(self, location: str, files: fs.FileSystem, root: str, delta_options: Mapping[str, str]) -> None:
        """Take the table's place.

        Args:
            location: as a URI.
            files: opened for it.
            root: of the table in ``files``.
            delta_options: for the Delta library.
        """
        self.location = location
        self.delta_options = dict(delta_options)
        self._files = files
        self._root = root

    @abstractmethod
    def create(self) -> None:
        """Make the folder and its log folder; both may exist."""

    @abstractmethod
    def write(self, name: str, fill: Callable[[pa.NativeFile], None]) -> int:
        """Write a new object and return its size in bytes; it is durable when this returns.

        A failure leaves nothing behind.
        """

    @abstractmethod
    def sync(self, name: str) -> None:
        """Make an object that another library wrote durable, and close it to others."""

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Give an object another name, under which it appears wholly; the change is durable when this returns."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""

    def objects(self) -> dict[str, datetime]:
        """Return every object under the folder, the log included, and when each was last written."""
        with disk_errors():
            found = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True, recursive=True))
        prefix = len(self._root.rstrip("/")) + 1
        return {info.path[prefix:]: info.mtime for info in found if info.type == fs.FileType.File}

    def data_files(self) -> dict[str, datetime]:
        """Return the data files in the folder, referenced or not, and when each was written."""
        return {name: written for name, written in self.objects().items() if is_data_file(name)}

    def open(self, name: str) -> pa.NativeFile:
        """Open an object for reading at random.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        with disk_errors():
            return self._files.open_input_file(self._path(name))

    def read(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        with self.open(name) as source, disk_errors():
            return bytes(source.read())

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a fault of the disk or the network into UNAVAILABLE; a missing object stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno is None and not _STORE_FAULT.search(str(error)):
            raise
        # What an object store says may name keys and hosts, so it stays in the cause.
        said = os.strerror(error.errno) if error.errno else "the object store does not answer or refuses"
        raise UnavailableError(f"the lake's storage failed: {said}", metadata={"dependency": "lake storage"}) from error
