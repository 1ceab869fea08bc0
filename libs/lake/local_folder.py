"""A table on a local disk: every folder is 0700, every file 0600, and a file is on disk before anything refers to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
from pyarrow import fs

from libs.lake.folder import LOG, TableFolder, disk_errors


class LocalFolder(TableFolder):
    """See ``TableFolder``."""

    def __init__(self, location: str) -> None:
        """Take a ``file://`` location."""
        files, root = fs.FileSystem.from_uri(location)
        super().__init__(location, files, root, {})

    def create(self) -> None:
        """See ``TableFolder.create``."""
        with disk_errors():
            Path(self._root).mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(self._root, LOG).mkdir(mode=0o700, exist_ok=True)
            _flush(Path(self._root))
            _flush(Path(self._root).parent)

    def write(self, name: str, fill: Callable[[pa.NativeFile], None]) -> int:
        """See ``TableFolder.write``."""
        path = self._path(name)
        try:
            with disk_errors(), self._files.open_output_stream(path) as stream:
                Path(path).chmod(0o600)
                fill(stream)
                size = int(stream.tell())
            self.sync(name)
        except BaseException:
            self.delete(name)
            raise
        return size

    def sync(self, name: str) -> None:
        """See ``TableFolder.sync``."""
        path = Path(self._path(name))
        with disk_errors():
            path.chmod(0o600)
            _flush(path)
            _flush(path.parent)

    def move(self, source: str, target: str) -> None:
        """See ``TableFolder.move``."""
        with disk_errors():
            Path(self._path(target)).parent.mkdir(mode=0o700, exist_ok=True)
            self._files.move(self._path(source), self._path(target))
            _flush(Path(self._root))
        self.sync(target)

    def delete(self, name: str) -> None:
        """See ``TableFolder.delete``."""
        try:
            with disk_errors():
                self._files.delete_file(self._path(name))
        except FileNotFoundError:
            return
        with disk_errors():
            _flush(Path(self._path(name)).parent)


def _flush(path: Path) -> None:
    """Force a file, or the names in a folder, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
