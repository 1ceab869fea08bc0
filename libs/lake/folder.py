"""The folder of one table, behind ``pyarrow.fs``, so that an object store can take the place of a local disk.

On a local disk every folder is 0700 and every file 0600, and a file is on disk before anything refers to it. An object
store gives both by itself: access is the bucket's, and an object exists wholly or not at all.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from hedgerow.errors import DataLossError, UnavailableError

LOG = "_delta_log"
_DATA_FILE = re.compile(r"part-[0-9a-f-]{36}\.parquet")


def new_data_file() -> str:
    """Return a name that no file has had."""
    return f"part-{uuid.uuid4()}.parquet"


def check_data_file(name: str) -> str:
    """Return the name of a data file.

    Raises:
        DataLossError: it is not one this lake makes; nothing outside the table's folder can be named.
    """
    if not _DATA_FILE.fullmatch(name):
        raise DataLossError("a snapshot names a file that this lake did not make")
    return name


class TableFolder:
    """Objects of one table by their path relative to the table's location.

    Attributes:
        location: the folder as a URI, such as ``file:///srv/lake/clients``.
    """

    def __init__(self, location: str) -> None:
        self.location = location.rstrip("/")
        self._files, self._root = fs.FileSystem.from_uri(self.location)
        self._local = isinstance(self._files, fs.LocalFileSystem)

    def create(self) -> None:
        """Make the folder and its log folder; both may exist."""
        with disk_errors():
            if self._local:
                Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
                Path(self._root, LOG).mkdir(mode=0o700, exist_ok=True)
                _flush(Path(self._root))
                _flush(Path(self._root).parent)
            else:
                self._files.create_dir(self._root, recursive=True)

    def objects(self) -> dict[str, datetime]:
        """Return every object under the folder, the log included, and when each was last written."""
        with disk_errors():
            found = self._files.get_file_info(fs.FileSelector(self._root, allow_not_found=True, recursive=True))
        prefix = len(self._root.rstrip("/")) + 1
        return {info.path[prefix:]: info.mtime for info in found if info.type == fs.FileType.File}

    def data_files(self) -> dict[str, datetime]:
        """Return the data files in the folder, referenced or not, and when each was written."""
        return {name: written for name, written in self.objects().items() if _DATA_FILE.fullmatch(name)}

    def open(self, name: str) -> pa.NativeFile:
        """Open an object for reading at random.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        with disk_errors():
            return self._files.open_input_file(self._path(name))

    def write(self, name: str, fill: Callable[[pa.NativeFile], None]) -> int:
        """Write a new object and return its size in bytes; it is on disk when this returns.

        A failure leaves nothing behind.
        """
        path = self._path(name)
        try:
            with disk_errors(), self._files.open_output_stream(path) as stream:
                if self._local:
                    Path(path).chmod(0o600)
                fill(stream)
                size = int(stream.tell())
            self.sync(name)
        except BaseException:
            self.delete(name)
            raise
        return size

    def sync(self, name: str) -> None:
        """Make an object and its name durable, and close it to other users of the machine."""
        if not self._local:
            return
        path = Path(self._path(name))
        with disk_errors():
            path.chmod(0o600)
            _flush(path)
            _flush(path.parent)

    def move(self, source: str, target: str) -> None:
        """Give an object another name; the change is durable when this returns."""
        with disk_errors():
            if self._local:
                Path(self._path(target)).parent.mkdir(mode=0o700, exist_ok=True)
            self._files.move(self._path(source), self._path(target))
            if self._local:
                _flush(Path(self._root))
        self.sync(target)

    def delete(self, name: str) -> None:
        """Remove an object; one that is gone already is no error."""
        try:
            with disk_errors():
                self._files.delete_file(self._path(name))
        except FileNotFoundError:
            return
        if self._local:
            with disk_errors():
                _flush(Path(self._path(name)).parent)

    def read(self, name: str) -> bytes:
        """Return the bytes of an object.

        Raises:
            FileNotFoundError: there is none of that name.
        """
        with self.open(name) as source, disk_errors():
            return bytes(source.read())

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


def _flush(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn a fault of the disk or the network into UNAVAILABLE; a missing object stays FileNotFoundError."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        if error.errno is None:
            raise
        raise UnavailableError(
            f"the lake's storage failed: {os.strerror(error.errno)}", metadata={"dependency": "lake storage"}
        ) from error
