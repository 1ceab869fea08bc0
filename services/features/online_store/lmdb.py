"""The online store in LMDB: one machine, one process.

LMDB never overwrites a page that a reader may see, and a freed page keeps its bytes. So the store lives in numbered
generations, one folder each: an erasure copies every value but the subject's into a fresh generation, swaps it in and
removes the old one. A fresh environment starts from zeroed pages, so nothing of the subject can be left in it; the
file is then searched for the subject's keys byte by byte to prove it.

Reads take a snapshot and never wait for a write. The one moment they wait for is the swap.
"""

from __future__ import annotations

import mmap
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import lmdb

from hedgerow.errors import ResourceExhaustedError
from services.features.online_store import Erased, StoredView, Values
from services.features.online_store.sealing import Sealing, block_of, pack, stamp

_PREFIX = "generation-"
_PARTIAL = ".partial"
_COPY_BATCH = 10_000


class LmdbOnlineStore:
    """An `OnlineStore` in a folder that this process alone uses."""

    def __init__(self, folder: Path, sealing: Sealing, *, map_size_mib: int = 4096) -> None:
        self._folder = folder
        self._sealing = sealing
        self._map_size = map_size_mib * 1024 * 1024
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._number = self._recover()
        self._environment = self._open(self._path(self._number))
        self._write_lock = threading.Lock()
        # Held for the length of one read and for the swap, so that no environment closes under a reader.
        self._swap_lock = threading.Lock()

    def write(self, view: StoredView, entities: Sequence[str], values: Values, as_of_us: int) -> int:
        """See `OnlineStore.write`."""
        keys = self._sealing.entity_keys(view.view_id, entities)
        plains = pack(values.event_us, as_of_us, values.values)
        with self._write_lock:
            try:
                with self._environment.begin(write=True) as transaction:
                    return sum(
                        self._put_if_newest(transaction, view, key, plain)
                        for key, plain in zip(keys, plains, strict=True)
                    )
            except lmdb.MapFullError as error:
                raise ResourceExhaustedError(
                    f"the online store has reached its {self._map_size // 2**20} MiB; raise its configured size"
                ) from error

    def read(self, view: StoredView, entities: Sequence[str]) -> Values:
        """See `OnlineStore.read`."""
        keys = self._sealing.entity_keys(view.view_id, entities)
        with self._swap_lock, self._environment.begin() as transaction:
            stored = [_get(transaction, key) for key in keys]
        return block_of(self._sealing.open(view, keys, stored), view.width)

    def erase(self, view_ids: Sequence[str], entity: str) -> Erased:
        """See `OnlineStore.erase`."""
        keys = frozenset(self._sealing.entity_keys(view_id, [entity])[0] for view_id in view_ids)
        with self._write_lock:
            removed = self._rewrite_without(keys)
            files = [path for path in self._folder.rglob("*") if path.is_file()]
            hits = sum(_occurrences(path, key) for path in files for key in keys)
        return Erased(values=removed, objects_searched=len(files), objects_rewritten=1, remaining=hits)

    def count(self) -> int:
        """Return how many values there are."""
        with self._swap_lock:
            return int(self._environment.stat()["entries"])

    def close(self) -> None:
        """Wait for a write to end, then release the files."""
        with self._write_lock, self._swap_lock:
            self._environment.close()

    def _put_if_newest(self, transaction: lmdb.Transaction, view: StoredView, key: bytes, plain: bytes) -> bool:
        (held,) = self._sealing.open(view, [key], [_get(transaction, key)])
        if held is not None and stamp(held) > stamp(plain):
            return False
        transaction.put(key, self._sealing.seal(view, key, plain))
        return True

    def _rewrite_without(self, keys: frozenset[bytes]) -> int:
        """Swap in a generation without the keys and return how many were there. Called with the write lock held."""
        number = self._number + 1
        partial = self._path(number).with_suffix(_PARTIAL)
        # An erasure that failed half-way, as on a full disk, may have left one.
        shutil.rmtree(partial, ignore_errors=True)
        fresh = self._open(partial)
        try:
            removed = self._copy(fresh, keys)
            fresh.sync(True)
        finally:
            fresh.close()
        partial.rename(self._path(number))
        try:
            _sync_folder(self._folder)
            opened = self._open(self._path(number))
        except BaseException:
            # The former generation goes on; the next start must not take the newer one for it.
            shutil.rmtree(self._path(number), ignore_errors=True)
            raise
        with self._swap_lock:
            old, self._environment = self._environment, opened
            old.close()
        self._number = number
        self._remove_former()
        return removed

    def _remove_former(self) -> None:
        """Remove every generation but the present one: an erasure before may have failed to."""
        for path in self._folder.glob(f"{_PREFIX}*"):
            if path != self._path(self._number):
                shutil.rmtree(path)
        _sync_folder(self._folder)

    def _copy(self, fresh: lmdb.Environment, without: frozenset[bytes]) -> int:
        """Copy all values but those under the keys, in key order, in transactions of bounded size."""
        removed = 0
        with self._environment.begin() as source:
            for batch in _batches(source.cursor()):
                with fresh.begin(write=True) as target:
                    for key, value in batch:
                        if key in without:
                            removed += 1
                        else:
                            target.put(key, value, append=True)
        return removed

    def _recover(self) -> int:
        """Return the number of the generation to open; what a crash left behind is removed."""
        for partial in self._folder.glob(f"*{_PARTIAL}"):
            shutil.rmtree(partial)
        numbers = sorted(int(path.name.removeprefix(_PREFIX)) for path in self._folder.glob(f"{_PREFIX}*"))
        # A complete newer generation was there before the older one would have been removed.
        for superseded in numbers[:-1]:
            shutil.rmtree(self._path(superseded))
        return numbers[-1] if numbers else 1

    def _open(self, path: Path) -> lmdb.Environment:
        path.mkdir(mode=0o700, exist_ok=True)
        return lmdb.open(str(path), map_size=self._map_size, mode=0o600, readahead=False, max_readers=126)

    def _path(self, number: int) -> Path:
        return self._folder / f"{_PREFIX}{number:08d}"


def _get(transaction: lmdb.Transaction, key: bytes) -> bytes | None:
    value = transaction.get(key)
    # Bytes already, as the transaction makes no views of pages; this costs no copy.
    return None if value is None else bytes(value)


def _batches(cursor: lmdb.Cursor) -> Iterator[list[tuple[bytes, bytes]]]:
    batch: list[tuple[bytes, bytes]] = []
    for key, value in cursor:
        batch.append((bytes(key), bytes(value)))
        if len(batch) == _COPY_BATCH:
            yield batch
            batch = []
    yield batch


def _occurrences(path: Path, needle: bytes) -> int:
    """Count a byte string in a file without reading the file into memory."""
    if path.stat().st_size == 0:
        return 0
    found = 0
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        position = content.find(needle)
        while position >= 0:
            found += 1
            position = content.find(needle, position + 1)
    return found


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
