"""Files in a folder of several processes, each locked while its maker works on what it is named for.

The kernel frees the lock when the maker dies, whatever it died of; so a file that nobody holds is what a dead process left
behind. Every process on the same file system sees the same, on Linux also over NFS.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


class FileLock:
    """A lock among threads and processes, on a file. Blocking, and not to be taken twice by one thread."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock inside; waits for its turn."""
        descriptor = self._open()
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def tried(self) -> Iterator[bool]:
        """Hold the lock inside if it is free now; yield whether it was."""
        descriptor = self._open()
        try:
            yield _lock(descriptor)
        finally:
            os.close(descriptor)

    def _open(self) -> int:
        return os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


class HeldFiles:
    """The files of one folder. Operations take moments and may be called on the event loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Without it, a file could be taken for a dead process's between its making and its locking.
        self._lock = FileLock(folder.with_suffix(".lock"))

    @contextlib.contextmanager
    def hold(self, name: str) -> Iterator[Path]:
        """Yield a new file of a name, which others may hold too; what is then still there of it is removed."""
        path = self._folder / f"{name.replace('/', '=')}.{uuid.uuid4().hex}"
        with self._lock.held():
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            _lock(descriptor)
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def held(self) -> set[str]:
        """Return the names of the files that a process holds."""
        with self._lock.held():
            return {_name(path) for path, is_free in self._files() if not is_free}

    def abandoned(self) -> list[str]:
        """Return the names of the files that nobody holds any more, and remove them."""
        names = []
        with self._lock.held():
            for path, is_free in self._files():
                if is_free:
                    names.append(_name(path))
                    path.unlink(missing_ok=True)
        return names

    def _files(self) -> Iterator[tuple[Path, bool]]:
        for path in sorted(self._folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    yield path, _lock(descriptor)
                finally:
                    os.close(descriptor)


def _name(path: Path) -> str:
    return path.name.rpartition(".")[0].replace("=", "/")


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
