"""One table of the lake and its one writer."""

from __future__ import annotations

import threading
from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from hedgerow.errors import AbortedError, FailedPreconditionError
from libs.lake import sealed_file, search
from libs.lake.delta_log import Check, Commit, DataFile, DeltaLog
from libs.lake.destroyed import DestroyedFiles
from libs.lake.erasure import ErasureCount, TableErasure
from libs.lake.folder import is_data_file, new_data_file
from libs.lake.keyring import Keyring
from libs.lake.layout import TableLayout
from libs.lake.storage import LOCAL_STORAGE, LakeStorage


@dataclass(frozen=True)
class Appended:
    """What an append did.

    Attributes:
        version: the version that holds the rows.
        row_count: rows appended.
        repeated: True when an earlier call with the same request id did it.
    """

    version: int
    row_count: int
    repeated: bool = False


@dataclass(frozen=True)
class TableSnapshot:
    """The files of one version, relative to the location, and the rows in them."""

    version: int
    location: str
    files: tuple[str, ...]
    row_count: int


@dataclass(frozen=True)
class SearchCount:
    """Objects opened and searched, and places that hold what was searched for."""

    objects_searched: int
    hits: int


class LakeTable:
    """A table. All methods block and may be called from several threads; changes wait for each other.

    Another process that writes the same table is caught by the log's optimistic concurrency: one of the two fails with
    AbortedError and changes nothing.
    """

    def __init__(self, location: str, layout: TableLayout, ring: Keyring, storage: LakeStorage = LOCAL_STORAGE) -> None:
        """Take a table's place and layout; nothing is read or made yet."""
        self._folder = storage.folder(location)
        self._layout = layout
        self._ring = ring
        self._log = DeltaLog(self._folder)
        self._destroyed = DestroyedFiles(self._folder)
        self._lock = threading.Lock()
        # Taken before the other: an erasure takes out what it looked for, and no other may have written that anew.
        self._erasing = threading.Lock()
        self._searched = search.Searched()

    def create(self) -> None:
        """Make the empty table, version 0; one that exists with the same schema stays as it is.

        Raises:
            FailedPreconditionError: one exists with another schema.
        """
        with self._lock:
            self._folder.create()
            self._log.create(self._layout.schema)

    def append(self, rows: pa.Table, request_id: str) -> Appended:
        """Append rows as one version: durable and visible when this returns, or not there at all.

        Args:
            rows: of exactly the layout's schema. None at all makes no version.
            request_id: an append with the id of an earlier one returns that one's result.

        Raises:
            AbortedError: another process changed the table first; nothing was appended.
            UnavailableError: the storage or the key service failed; nothing was appended.
        """
        with self._lock:
            earlier = self._log.find(request_id)
            if earlier is not None:
                return Appended(earlier.version, earlier.row_count, repeated=True)
            if rows.num_rows == 0:
                return Appended(self._log.snapshot().version, 0)
            file = self._write(rows)
            try:
                version = self._log.commit(adds=[file], request_id=request_id)
            except AbortedError:
                # Surely not committed. After any other fault the outcome may be unknown, so the file stays until
                # ``clean`` finds that no version lists it.
                self._folder.delete(file.name)
                raise
            return Appended(version, rows.num_rows)

    def find(self, request_id: str) -> Commit | None:
        """Return the append that carried a request id, or None."""
        return self._log.find(request_id)

    def snapshot(self, version: int | None = None) -> TableSnapshot:
        """Return a version, the latest by default.

        Raises:
            NotFoundError: there is no such version.
            FailedPreconditionError: it lists a file that an erasure destroyed; the metadata names the receipt.
        """
        found = self._log.snapshot(version)
        receipt = self._destroyed.receipt_of(found.files)
        if receipt is not None:
            raise FailedPreconditionError(
                f"version {found.version} named a file that an erasure removed; open a later version",
                reason="VERSION_ERASED",
                metadata={"receipt": receipt},
            )
        return TableSnapshot(found.version, self._folder.location, found.files, found.row_count)

    def erase(
        self,
        pseudonym: str,
        receipt: str,
        check: Check = lambda: None,
        *,
        closed: AbstractContextManager[object] | None = None,
    ) -> ErasureCount:
        """Remove every row that holds the pseudonym in any text column, and every file that ever held one.

        Live files are rewritten without the rows in one commit; then each file that held one, of old versions and
        unreferenced ones included, is recorded as destroyed and deleted. A crash at any point leaves a state from which
        the same call goes on; doing it again does nothing. Appends wait for the commit alone.

        Args:
            pseudonym: the subject.
            receipt: name of the erasure request, given to whoever opens a version that is gone.
            check: called between files; raises to stop.
            closed: held while rows are taken out. Who appends must hold it from looking at who is erased to the end of
                the append; then each row was either there and is gone, or is left out by whoever appends it.

        Raises:
            DataLossError: a file that a version lists cannot be opened, so it cannot be searched.
            AbortedError: another process changed the table meanwhile; call again.
        """
        with self._erasing:
            erasure = TableErasure(
                self._folder,
                self._log,
                self._layout,
                self._ring,
                pseudonym=pseudonym,
                without=self._searched.of(pseudonym),
                check=check,
            )
            try:
                erasure.look()
                with closed or nullcontext(), self._lock:
                    count = erasure.take_out(receipt)
            finally:
                for name in erasure.unused:
                    self._folder.delete(name)
            self._destroyed.record(erasure.held, receipt)
            for name in erasure.held:
                self._folder.delete(name)
            return count

    def search(
        self, pseudonym: str, check: Check = lambda: None, *, files: Collection[str] | None = None
    ) -> SearchCount:
        """Search every object under the table's folder, the log and unreferenced files included.

        What ``erase`` or a search that was stopped has found to be without the subject, and was not written since, counts
        without being read again.

        Args:
            pseudonym: the subject.
            check: called between objects; raises to stop.
            files: the data files to search; all by default. Others are of appends that came later.

        Raises:
            DataLossError: a sealed file cannot be opened, so nothing can be said of it.
        """
        without = self._searched.of(pseudonym)
        hits = searched = 0
        for name, written in self._folder.objects().items():
            if files is not None and is_data_file(name) and name not in files:
                continue
            check()
            if without.get(name) != written:
                try:
                    found = search.count_in_object(self._folder, name, self._ring, pseudonym)
                except (FileNotFoundError, AbortedError):
                    continue  # deleted since it was listed
                hits += found
                if not found:
                    without[name] = written
            searched += 1
        self._searched.forget(pseudonym)
        return SearchCount(searched, hits)

    def clean(self, *, older_than: timedelta, now: datetime | None = None) -> int:
        """Delete data files that no version lists, as an append leaves them that died before its commit.

        Args:
            older_than: younger files stay, for they may be of an append that is under way in another process.
            now: the time to reckon from; the clock's by default.

        Returns:
            The number of files deleted.
        """
        with self._lock:
            limit = (now or datetime.now(UTC)) - older_than
            live = self._log.snapshot().files
            stale = {name for name, written in self._folder.data_files().items() if written <= limit}
            stale.difference_update(live)
            if stale:  # only then is the whole log worth reading
                stale -= self._log.referenced()
            for name in stale:
                self._folder.delete(name)
            return len(stale)

    def _write(self, rows: pa.Table) -> DataFile:
        name = new_data_file()
        size = sealed_file.write(self._folder, name, rows, self._layout, self._ring)
        return DataFile(name, size, rows.num_rows)
