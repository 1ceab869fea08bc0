"""A log that cannot fill the disk: one file per service, turned over at a size, with a fixed number of former ones."""

from __future__ import annotations

import os
from pathlib import Path

MAX_BYTES = 8 * 1024 * 1024
KEPT = 3


class LogFile:
    """An append-only file of at most ``max_bytes`` and ``kept`` former files ``<name>.1`` (newest) to ``<name>.<kept>``."""

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES, kept: int = KEPT) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._kept = kept
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._open()

    def write(self, content: bytes) -> None:
        """Append; what does not fit goes to the next file, cut at the end of a line where there is one.

        Raises:
            OSError: such as a full disk; what was not written is lost, and the next call tries anew.
        """
        while content:
            room = self._max_bytes - self._size
            if len(content) <= room:
                part = content
            else:
                part = content[: content.rfind(b"\n", 0, max(room, 0)) + 1]
                if not part and not self._size:
                    part = content[: self._max_bytes]
            if part:
                self._size += os.write(self._fd, part)
            content = content[len(part) :]
            if content:
                self._turn_over()

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)

    def tail(self, lines: int) -> list[str]:
        """Return the last lines."""
        with self.path.open("rb") as file:
            file.seek(max(0, self._size - 64 * 1024))
            return file.read().decode(errors="replace").splitlines()[-lines:]

    def _open(self) -> None:
        self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._fd).st_size

    def _turn_over(self) -> None:
        former = self._fd
        # After a turn that found the disk full the former files have moved, and must not move again.
        if self.path.exists():
            turn_over(self.path, self._kept)
        self._open()
        os.close(former)


def turn_over(path: Path, kept: int = KEPT) -> None:
    """Rename a file to ``.1``, what was ``.1`` to ``.2``, and so on; the oldest is dropped."""
    for number in range(kept, 0, -1):
        former = path if number == 1 else path.with_name(f"{path.name}.{number - 1}")
        if former.exists():
            former.replace(path.with_name(f"{path.name}.{number}"))
