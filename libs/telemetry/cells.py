"""Where counts are kept: in memory, or in a file per worker that outlives the worker.

A worker that is killed must not take its counts with it: a total that falls reads as a restart of the whole service.
So each worker of a service counts in a *slot*, a small mapped file that the kernel keeps whatever ends the process, and
whoever starts next takes the slot over and counts on. There are as many slots as workers ever ran at once, so the number
of files is bounded. A lock on the slot shows that its worker lives, without which its gauges do not count.
"""

from __future__ import annotations

import fcntl
import json
import mmap
import os
from collections.abc import Collection, Iterator, MutableSequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_SLOTS = 64
MAX_CELLS = 65_536
_WIDTH = 8

Key = tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """Consecutive cells of one worker.

    Attributes:
        key: the metric and its label values.
        values: what the cells hold.
        worker: the worker's slot; empty in a service of one process.
        alive: whether that worker runs.
    """

    key: Key
    values: tuple[float, ...]
    worker: str = ""
    alive: bool = True


class Cells(Protocol):
    """Numbers by position. The writing methods belong to one thread of one process."""

    values: MutableSequence[float]

    def row(self, key: Key, width: int) -> int:
        """Return the position of the first of a key's cells, which are made at the first use.

        Raises:
            ValueError: there is no room, or the key has another width.
        """

    def known(self) -> Collection[Key]:
        """Return the keys that have cells here."""

    def rows(self) -> Iterator[Row]:
        """Yield every row of every worker of this service."""


class MemoryCells:
    """Cells of the only process of a service."""

    def __init__(self) -> None:
        self.values: MutableSequence[float] = []
        self._rows: dict[Key, tuple[int, int]] = {}

    def row(self, key: Key, width: int) -> int:
        """See ``Cells``."""
        start, kept = self._rows.get(key, (len(self.values), width))
        if kept != width or start + width > MAX_CELLS:
            raise ValueError(f"no {width} cells for {key[0]}")
        if key not in self._rows:
            self.values.extend([0.0] * width)
            self._rows[key] = (start, width)
        return start

    def known(self) -> Collection[Key]:
        """See ``Cells``."""
        return tuple(self._rows)

    def rows(self) -> Iterator[Row]:
        """See ``Cells``."""
        for key, (start, width) in list(self._rows.items()):
            yield Row(key, tuple(self.values[start : start + width]))


class WorkerCells:
    """Cells of one worker of several, in ``{slot}.keys`` and ``{slot}.values`` of a folder they share."""

    def __init__(self, folder: Path) -> None:
        """Take the first slot that no living worker holds.

        Whoever starts the workers begins with an empty folder, so that all of them have the same metrics.

        Raises:
            ValueError: all slots are taken.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self.slot, self._lock = _claim(folder)
        self._rows = {key: (start, width) for key, start, width in _read_keys(self._path("keys"), repair=True)}
        self._end = max((start + width for start, width in self._rows.values()), default=0)
        file = os.open(self._path("values"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(file, MAX_CELLS * _WIDTH)  # sparse: what is not used takes no space
            self._map = mmap.mmap(file, MAX_CELLS * _WIDTH)
        finally:
            os.close(file)
        # After the values, since a reader goes by the keys.
        self._keys = os.open(self._path("keys"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.values: MutableSequence[float] = memoryview(self._map).cast("d")  # type: ignore[assignment]

    def _path(self, what: str) -> Path:
        return self._folder / f"{self.slot}.{what}"

    def row(self, key: Key, width: int) -> int:
        """See ``Cells``."""
        start, kept = self._rows.get(key, (self._end, width))
        if kept != width or start + width > MAX_CELLS:
            raise ValueError(f"no {width} cells for {key[0]}")
        if key not in self._rows:
            os.write(self._keys, json.dumps([width, *key]).encode() + b"\n")
            self._rows[key] = (start, width)
            self._end = start + width
        return start

    def known(self) -> Collection[Key]:
        """See ``Cells``."""
        return tuple(self._rows)

    def rows(self) -> Iterator[Row]:
        """See ``Cells``."""
        return _rows(self._folder)

    def close(self) -> None:
        """Give the slot up; its counts stay."""
        self.values.release()  # type: ignore[attr-defined]
        self._map.close()
        os.close(self._keys)
        os.close(self._lock)


class CellsOfWorkers:
    """Cells of all workers in a folder, for a process that counts nothing itself, such as their parent."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.values: MutableSequence[float] = []

    def row(self, key: Key, width: int) -> int:
        """Refuse: only workers count."""
        raise ValueError(f"no {width} cells for {key[0]}")

    def known(self) -> Collection[Key]:
        """Return none: the workers bound their own keys."""
        return ()

    def rows(self) -> Iterator[Row]:
        """See ``Cells``."""
        return _rows(self._folder)


def _rows(folder: Path) -> Iterator[Row]:
    for keys in sorted(folder.glob("*.keys")):
        slot = keys.stem
        alive = _is_held(folder / f"{slot}.lock")
        values = memoryview(keys.with_suffix(".values").read_bytes()).cast("d")
        for key, start, width in _read_keys(keys):
            yield Row(key, tuple(values[start : start + width]), slot, alive)


def _claim(folder: Path) -> tuple[int, int]:
    for slot in range(MAX_SLOTS):
        lock = os.open(folder / f"{slot}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return slot, lock
    raise ValueError(f"{MAX_SLOTS} workers already count in {folder}")


def _is_held(path: Path) -> bool:
    lock = os.open(path, os.O_RDWR)
    try:
        # Shared, so that two readers never take each other for the worker.
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _read_keys(path: Path, *, repair: bool = False) -> list[tuple[Key, int, int]]:
    """Return (key, start, width) of each whole line; a line that a kill cut off was never counted in."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    whole = content[: content.rfind(b"\n") + 1]
    if repair and len(whole) < len(content):
        os.truncate(path, len(whole))
    found, start = [], 0
    for line in whole.splitlines():
        width, *key = json.loads(line)
        found.append((tuple(key), start, width))
        start += width
    return found
