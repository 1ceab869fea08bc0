"""One append: what arrives is checked and held in memory within a budget, then committed as one version."""

from __future__ import annotations

import threading
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc

from hedgerow.errors import CallCancelledError, InvalidArgumentError, ResourceExhaustedError
from libs.lake import rows_holding
from services.ingestion import records
from services.ingestion.catalog import Catalog, OpenDataset
from services.ingestion.dataset import Append, SealedRow

MIB = 1024 * 1024


@dataclass(frozen=True)
class AppendLimits:
    """Bounds of an append.

    Attributes:
        max_bytes: rows of one append, as plain columns.
        max_total_bytes: the same of all appends under way.
        max_rows: rows of one append.
        max_quarantined_rows: rows of one append that may break the contract before it is refused.
    """

    max_bytes: int = 256 * MIB
    max_total_bytes: int = 512 * MIB
    max_rows: int = 20_000_000
    max_quarantined_rows: int = 100_000


class ByteBudget:
    """Memory that all appends under way share. Safe for threads."""

    def __init__(self, total: int) -> None:
        self._free = total
        self._lock = threading.Lock()

    def take(self, size: int) -> None:
        """Take bytes of the budget.

        Raises:
            ResourceExhaustedError: other appends hold them (OVERLOADED).
        """
        with self._lock:
            if size > self._free:
                raise ResourceExhaustedError(
                    "appends under way fill the memory set aside for them; try again shortly", retry_after=1.0
                )
            self._free -= size

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._lock:
            self._free += size


def check_request_id(value: str) -> str:
    """Return a request id in canonical form.

    Raises:
        InvalidArgumentError: it is not a UUID.
    """
    try:
        return str(uuid.UUID(value))
    except ValueError as error:
        what = "expected a UUID, the same in each retry of this append"
        raise InvalidArgumentError(f"request_id: {what}", fields={"request_id": what}) from error


class Appending:
    """An append under way. Use it as a context manager, which frees its memory. Methods block; one thread at a time.

    A call that is cancelled leaves the context while a worker thread is still inside a method; from then on that thread
    takes no memory and commits nothing.
    """

    def __init__(
        self, catalog: Catalog, target: OpenDataset, request_id: str, *, limits: AppendLimits, budget: ByteBudget
    ) -> None:
        self._catalog = catalog
        self._target = target
        self._request_id = request_id
        self._limits = limits
        self._budget = budget
        self._lock = threading.Lock()
        self._closed = False
        self._bytes = 0
        self._rows = 0
        self._kept: list[pa.Table] = []
        self._quarantined: list[SealedRow] = []

    def __enter__(self) -> Self:
        self._target.gate.enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._target.gate.leave()
            self._kept.clear()
            self._budget.give(self._bytes)
            self._bytes = 0

    def add(self, ipc: bytes) -> None:
        """Check one Arrow IPC stream and hold its rows.

        Raises:
            InvalidArgumentError: the stream or its columns do not fit, or too many rows break the contract.
            ResourceExhaustedError: the append is larger than allowed, or memory is short.
            CallCancelledError: the context was left meanwhile.
        """
        limits, contract = self._limits, self._target.contract
        table, size = records.decode(ipc, contract, max_rows=limits.max_rows - self._rows)
        if self._bytes + size > limits.max_bytes:
            raise ResourceExhaustedError(
                f"the append holds more than {limits.max_bytes // MIB} MiB; send it as several appends",
                reason="MESSAGE_TOO_LARGE",
            )
        with self._lock:
            self._check_open()
            self._budget.take(size)
            self._bytes += size
        checked = records.check(table, contract, pseudonym_key=self._target.pseudonym_key, first_row=self._rows)
        if len(self._quarantined) + len(checked.quarantined) > limits.max_quarantined_rows:
            first = checked.quarantined[0]
            raise InvalidArgumentError(
                f"more than {limits.max_quarantined_rows} rows break the contract, so nothing was appended; "
                f"row {first.row_index}: {first.reason}",
                reason="ARROW_INVALID",
                fields={"arrow_ipc": first.reason},
            )
        self._rows += table.num_rows
        self._kept.append(checked.rows)
        self._quarantined += [self._target.quarantine.seal(self._request_id, row) for row in checked.quarantined]

    def commit(self) -> Append:
        """Make all rows durable and visible at once, or none of them; a repeat returns the first result.

        Rows of a subject who was erased since the append began are left out.

        Raises:
            UnavailableError: the storage or the secrets service failed. The append may be repeated.
            AbortedError: another process changed the dataset first. The append may be repeated.
            CallCancelledError: the context was left before the commit began.
        """
        target, store = self._target, self._catalog.store
        with self._lock:
            self._check_open()
            rows = pa.concat_tables([target.contract.schema().empty_table(), *self._kept])
            # For itself, since a call that is cancelled leaves the context while this goes on.
            target.gate.enter()
        try:
            with target.changing:
                done = store.find_append(target.id, self._request_id)
                if done is not None:
                    return done
                rows, quarantined = self._without_erased(rows)
                store.begin_append(target.id, self._request_id, quarantined, now_us=self._catalog.now_us())
                appended = target.table.append(rows, self._request_id)
                return store.finish_append(
                    target.id, self._request_id, version=appended.version, row_count=appended.row_count
                )
        finally:
            target.gate.leave()

    def _without_erased(self, rows: pa.Table) -> tuple[pa.Table, list[SealedRow]]:
        """Return the rows and the quarantined ones without those of subjects who were erased meanwhile."""
        target, quarantined = self._target, self._quarantined
        for pseudonym in target.gate.erased():
            rows = rows.filter(pc.invert(rows_holding(rows, pseudonym)))
            quarantined = [row for row in quarantined if not target.quarantine.holds(self._request_id, row, pseudonym)]
        return rows, quarantined

    def _check_open(self) -> None:
        """Raise when the context was left. Call it with the lock held."""
        if self._closed:
            raise CallCancelledError("the call was cancelled, so its work stopped")
