"""A table in an object store, which keeps an object durably and wholly or not at all; access is the bucket's."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from libs.lake.folder import TableFolder, disk_errors


class ObjectFolder(TableFolder):
    """See ``TableFolder``. A store has no folders, so there is none to make."""

    def create(self) -> None:
        """See ``TableFolder.create``."""

    def write(self, name: str, fill: Callable[[pa.NativeFile], None]) -> int:
        """See ``TableFolder.write``."""
        # In memory first: to close the stream is to publish what it holds, also when filling it failed half-way.
        content = pa.BufferOutputStream()
        fill(content)
        buffer = content.getvalue()
        with disk_errors(), self._files.open_output_stream(self._path(name)) as stream:
            stream.write(buffer)
        return int(buffer.size)

    def sync(self, name: str) -> None:
        """See ``TableFolder.sync``; an object that is there is durable."""

    def move(self, source: str, target: str) -> None:
        """See ``TableFolder.move``; a crash in between leaves both names."""
        with disk_errors():
            self._files.move(self._path(source), self._path(target))

    def delete(self, name: str) -> None:
        """See ``TableFolder.delete``."""
        try:
            with disk_errors():
                self._files.delete_file(self._path(name))
        except FileNotFoundError:
            return
