"""The Delta log of one table: the only module that touches the Delta library.

The library keeps the log and nothing else: it never reads or writes a data file, because it knows no encryption. What is
committed holds no value of the data: file names, sizes, row counts, column names and types, request ids, receipts.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable, Schema
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction, CommitProperties, RemoveAction, Transaction

from hedgerow.errors import AbortedError, DataLossError, FailedPreconditionError, NotFoundError, UnavailableError
from libs.lake.folder import LOG, TableFolder

Check = Callable[[], None]
"""Called between the steps of a long job; raises to stop it."""

_REQUEST = "hedgerowRequest"
_ROWS = "hedgerowRows"
_RECEIPT = "hedgerowReceipt"
_CONFIGURATION = {
    # Old versions stay open until retention or an erasure removes them, so the log that names them stays too.
    "delta.enableExpiredLogCleanup": "false",
    "delta.enableDeletionVectors": "false",
    # How long a retry of an append can find itself in the log.
    "delta.setTransactionRetentionDuration": "interval 30 days",
}


@dataclass(frozen=True)
class DataFile:
    """A data file to commit: name, size in bytes, rows."""

    name: str
    size: int
    rows: int


@dataclass(frozen=True)
class LogSnapshot:
    """The files of one version, sorted, and the rows in them."""

    version: int
    files: tuple[str, ...]
    row_count: int


@dataclass(frozen=True)
class Commit:
    """A committed append: its version and rows."""

    version: int
    row_count: int


class DeltaLog:
    """Versions of one table."""

    def __init__(self, folder: TableFolder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._held: DeltaTable | None = None

    def create(self, schema: pa.Schema) -> None:
        """Make version 0, the empty table; one that exists with the same schema stays as it is.

        Raises:
            FailedPreconditionError: one exists with another schema.
        """
        wanted = Schema.from_arrow(schema)
        if self._exists():
            with self._lock:
                if self._latest().schema() != wanted:
                    raise FailedPreconditionError("the table exists with another schema")
            return
        try:
            DeltaTable.create(
                self._folder.location,
                schema=wanted,
                mode="error",
                configuration=_CONFIGURATION,
                storage_options=self._folder.delta_options,
            )
        except (DeltaError, OSError) as error:
            raise _unwritable() from error
        self._folder.sync(_entry(0))

    def snapshot(self, version: int | None = None) -> LogSnapshot:
        """Return a version, the latest by default.

        Raises:
            NotFoundError: there is no such table or version.
            DataLossError: the log cannot be read.
        """
        with self._lock:
            table = self._latest()
            latest = table.version()
            if version is None or version == latest:
                return _listed(table)
        if not 0 <= version < latest:
            raise NotFoundError(f"version {version} does not exist; the latest is {latest}")
        try:
            return _listed(self._open(version))
        except DeltaError as error:
            raise _unreadable() from error

    def commit(
        self, *, adds: Sequence[DataFile], removes: Sequence[str] = (), request_id: str = "", receipt: str = ""
    ) -> int:
        """Commit one version and return its number; it is on disk when this returns.

        Args:
            adds: files that are on disk already.
            removes: names of files of the latest version.
            request_id: of an append; the log takes each once.
            receipt: of an erasure.

        Raises:
            AbortedError: another writer was first; nothing was committed.
            UnavailableError: the log cannot be written.
        """
        now = int(time.time() * 1000)
        actions: list[AddAction | RemoveAction] = [RemoveAction(name, True, now) for name in removes]
        actions += [
            AddAction(f.name, f.size, {}, now, True, json.dumps({"numRecords": f.rows}, separators=(",", ":")))
            for f in adds
        ]
        facts: dict[str, object] = {_ROWS: sum(f.rows for f in adds)}
        facts.update({key: value for key, value in ((_REQUEST, request_id), (_RECEIPT, receipt)) if value})
        properties = CommitProperties(
            custom_metadata=facts,
            app_transactions=[Transaction(request_id, 1, now)] if request_id else None,
        )
        with self._lock:
            table = self._latest()
            base = table.version()
            try:
                table.create_write_transaction(actions, "append", table.schema(), commit_properties=properties)
            except (DeltaError, OSError) as error:
                # A writer may be told of a failure although its commit is there (seen with two appenders at once).
                version = self._version_after(base, facts)
                if version is None or not request_id:
                    raise _refused(error) from error
            else:
                version = self._version_after(base, facts)
                if version is None:
                    raise _unreadable()
        self._folder.sync(_entry(version))
        return version

    def find(self, request_id: str) -> Commit | None:
        """Return the append that carried a request id, or None."""
        with self._lock:
            table = self._latest()
            if table.transaction_version(request_id) is None:
                return None
            latest = table.version()
        for version in range(latest, 0, -1):
            facts = self._facts(version)
            if facts.get(_REQUEST) == request_id:
                return Commit(version, int(facts[_ROWS]))
        return None

    def referenced(self, check: Check = lambda: None) -> set[str]:
        """Return the names of all files that any version ever listed: reads the whole log.

        Args:
            check: called between its entries; raises to stop.
        """
        with self._lock:
            latest = self._latest().version()
        names: set[str] = set()
        for version in range(latest + 1):
            check()
            for action in self._actions(version):
                names.update(unquote(part["path"]) for key in ("add", "remove") if (part := action.get(key)))
        return names

    def _version_after(self, base: int, facts: dict[str, object]) -> int | None:
        """Return the version that was just committed: the first above ``base`` with these facts."""
        for version in range(base + 1, self._latest().version() + 1):
            if facts.items() <= self._facts(version).items():
                return version
        return None

    def _facts(self, version: int) -> dict[str, Any]:
        for action in self._actions(version):
            if "commitInfo" in action:
                return dict(action["commitInfo"])
        return {}

    def _actions(self, version: int) -> list[dict[str, dict[str, Any]]]:
        try:
            return [json.loads(line) for line in self._folder.read(_entry(version)).splitlines() if line]
        except (FileNotFoundError, ValueError) as error:
            raise _unreadable() from error

    def _latest(self) -> DeltaTable:
        """Return the table at its latest version. Call it with the lock held."""
        try:
            if self._held is None:
                self._held = self._open()
            else:
                self._held.update_incremental()
        except TableNotFoundError as error:
            raise NotFoundError("there is no such table in the lake") from error
        except DeltaError as error:
            self._held = None
            raise _unreadable() from error
        except OSError as error:
            raise _away() from error
        return self._held

    def _exists(self) -> bool:
        try:
            return DeltaTable.is_deltatable(self._folder.location, storage_options=self._folder.delta_options)
        except OSError as error:
            raise _away() from error

    def _open(self, version: int | None = None) -> DeltaTable:
        try:
            return DeltaTable(self._folder.location, version=version, storage_options=self._folder.delta_options)
        except OSError as error:
            raise _away() from error


def _listed(table: DeltaTable) -> LogSnapshot:
    actions = pa.table(table.get_add_actions(flatten=True))
    files = tuple(sorted(actions.column("path").to_pylist()))
    return LogSnapshot(table.version(), files, sum(actions.column("num_records").to_pylist()))


def _entry(version: int) -> str:
    return f"{LOG}/{version:020d}.json"


def _refused(error: Exception) -> AbortedError | UnavailableError:
    if isinstance(error, CommitFailedError):
        return AbortedError("the dataset changed while this was written; try again")
    return _unwritable()


def _unreadable() -> DataLossError:
    return DataLossError("the table's log cannot be read")


def _away() -> UnavailableError:
    return UnavailableError("the lake's storage does not answer", metadata={"dependency": "lake storage"})


def _unwritable() -> UnavailableError:
    return UnavailableError("the table's log cannot be written", metadata={"dependency": "lake storage"})
