"""The audit writer of a process: group commit, back-pressure, sealing and shipping.

Events queue on the event loop and one thread writes them, all that queued while it was busy in one block with one
fdatasync. An event of a durable append whose caller was refused may still stand in the trail, when the disk answered
too late; an event whose caller was served always does, but for the buffered ones of the last moments before a crash.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import structlog

from hedgerow.errors import UnavailableError
from hedgerow.identity import TRUST_DOMAIN
from libs.audit.block_file import KEY_BYTES, Disk
from libs.audit.commit_thread import CommitThread
from libs.audit.event import AuditEvent
from libs.audit.folding import Fold, FoldKey, fold_key
from libs.audit.instance import Instance
from libs.audit.orphans import settle_orphans
from libs.audit.outbox import Outbox, PublicKeys, Ship, Sign, unshipped_count
from libs.audit.reanchor import carry_out_reanchors

log = structlog.get_logger()
COMMIT_FAILED = "audit_commit_failed"
COMMIT_STALLED = "audit_commit_stalled"
RECOVERED = "audit_commit_recovered"
UPKEEP_FAILED = "audit_upkeep_failed"


@dataclass(frozen=True, slots=True)
class AuditLimits:
    """Bounds and intervals; times are in seconds."""

    buffer_events: int = 16_384
    """Events that may wait for the disk; then calls are refused."""
    batch_events: int = 1_024
    """Events in one group commit."""
    flush_seconds: float = 0.1
    """How long a buffered event waits for company."""
    fold_seconds: float = 1.0
    """Interval over which `fold` folds."""
    fold_keys: int = 4_096
    """Kinds of events folded at a time."""
    durable_seconds: float = 2.0
    """How long a commit may take, or go on failing, until calls are refused."""
    retry_seconds: float = 0.25
    """Pause before a failed commit is tried again."""
    segment_bytes: int = 2_621_440
    """A segment of this size is closed; the block that reaches it may add some 300 KiB."""
    seal_seconds: float = 60.0
    """A segment of this age is sealed."""
    upkeep_seconds: float = 2.0
    """Interval of sealing, shipping and reporting."""
    call_seconds: float = 10.0
    """Deadline of a call to sign, ship or report."""
    keep_shipped: int = 64
    """Shipped segments kept on this machine."""
    max_unshipped: int = 1_024
    """Segments kept for shipping; then calls are refused."""


class AuditHead(NamedTuple):
    """How far a chain is durable. Kept by governance, it shows when a tail that was never sealed goes missing."""

    service: str
    instance: str
    sequence: int
    """The last durable event; 0 before the first."""
    chain_hash: bytes


Report = Callable[[AuditHead], Awaitable[bool]]
"""(head) -> whether to seal and ship at once."""


class WriterStatus(NamedTuple):
    """For metrics and readiness."""

    waiting: int
    """Events that wait for the disk, folds not counted."""
    refusing: tuple[str, ...]
    """Why calls are refused; empty when they are not."""
    sequence: int
    unshipped: int


_Entry = tuple[AuditEvent | Fold, "asyncio.Future[None] | None"]


class AuditWriter:
    """Writes this process's audit events. All methods belong to one event loop."""

    def __init__(
        self,
        directory: Path,
        *,
        service: str,
        data_key: bytes,
        sign: Sign,
        public_keys: PublicKeys,
        ship: Ship,
        report: Report | None = None,
        limits: AuditLimits | None = None,
        disk: Disk | None = None,
        trust_domain: str = TRUST_DOMAIN,
    ) -> None:
        """Touches nothing yet. Raises ValueError when `data_key` is not 32 bytes."""
        if len(data_key) != KEY_BYTES:
            raise ValueError(f"the audit data key has {len(data_key)} bytes; it must have {KEY_BYTES}")
        self._directory = directory
        self._service = service
        self._trust_domain = trust_domain
        self._data_key = data_key
        self._report = report
        self._limits = limits or AuditLimits()
        self._disk = disk or Disk()
        self._outbox = Outbox(sign, public_keys, ship, self._limits.keep_shipped, self._limits.call_seconds)
        self._pending: list[_Entry] = []
        self._in_flight: list[_Entry] = []
        self._settled = 0
        self._barriers: list[tuple[int, asyncio.Future[None]]] = []
        self._folds: dict[FoldKey, Fold] = {}
        self._blocked: set[str] = {"not started"}
        self._failing_since: float | None = None
        self._flush_timer: asyncio.Handle | None = None
        self._flush_at_once = False
        self._fold_timer: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None
        self._unshipped = 0
        self._seal_now = False
        self._upkeep_lock = asyncio.Lock()
        self._upkeep: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes an instance folder and recovers its chain, or begins one. Raises AuditBrokenError, OSError."""
        self._loop = asyncio.get_running_loop()
        self._thread = CommitThread(self._loop, f"audit-{self._service}")
        place = (self._directory, self._service, self._data_key)
        size, domain = self._limits.segment_bytes, self._trust_domain
        acquire = partial(Instance.acquire, *place, segment_bytes=size, disk=self._disk, trust_domain=domain)
        try:
            await self._thread.run(lambda: carry_out_reanchors(*place, self._disk))
            self._instance = await self._thread.run(acquire)
        except BaseException:
            self._thread.stop()
            raise
        self._blocked.discard("not started")
        self._upkeep = self._loop.create_task(self._keep_up(), name="audit-upkeep")

    async def close(self) -> None:
        """Saves, seals and ships what there is, as far as that works within `call_seconds`, and lets the folder go."""
        if self._upkeep is None:
            return
        self._upkeep.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._upkeep
        self._upkeep = None
        try:
            async with asyncio.timeout(self._limits.call_seconds):
                await self.seal()
        except Exception as error:  # what is not shipped now is shipped by the next process
            self._log_upkeep_failure(error)
        self._blocked.add("closed")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._limits.durable_seconds):
                await self._thread.run(self._instance.release)
        self._thread.stop()

    async def append(self, event: AuditEvent) -> None:
        """Returns once the event is on the disk. Raises UnavailableError (AUDIT_UNAVAILABLE) within durable_seconds."""
        self._admit()
        future: asyncio.Future[None] = self._loop.create_future()
        self._pending.append((event, future))
        self._flush_soon()
        await future

    def append_nowait(self, event: AuditEvent) -> None:
        """Takes the event over, to be on the disk shortly. Raises UnavailableError (AUDIT_UNAVAILABLE)."""
        self._admit()
        self._pending.append((event, None))
        if self._flush_timer is None:
            self._flush_timer = self._loop.call_later(self._limits.flush_seconds, self._flush)

    def fold(self, event: AuditEvent) -> None:
        """As append_nowait, but like events of one interval become one. Raises UnavailableError (AUDIT_UNAVAILABLE)."""
        self._admit()
        key = fold_key(event)
        fold = self._folds.get(key)
        if fold is not None:
            fold.add(event)
            return
        if len(self._folds) >= self._limits.fold_keys:
            self._close_folds()
        self._folds[key] = Fold(event)
        if self._fold_timer is None:
            self._fold_timer = self._loop.call_later(self._limits.fold_seconds, self._close_folds)

    async def flush(self) -> None:
        """Returns once everything taken over so far is on the disk. Raises UnavailableError (AUDIT_UNAVAILABLE)."""
        self._close_folds()
        target = self._settled + len(self._in_flight) + len(self._pending)
        if target == self._settled:
            return
        if self._blocked:
            raise self._refusal()
        future: asyncio.Future[None] = self._loop.create_future()
        self._barriers.append((target, future))
        self._flush_soon()
        await future

    async def seal(self) -> None:
        """Returns once everything taken over so far is sealed, signed and shipped.

        Raises UnavailableError, AuditBrokenError, OSError, TimeoutError, CheckpointError, and what `sign`, `public_keys`
        and `ship` raise.
        """
        await self.flush()
        async with self._upkeep_lock:
            await self._thread.run(self._instance.roll)
            await self._ship()

    def head(self) -> AuditHead:
        """How far the chain is durable."""
        sequence, chain_hash = self._instance.head
        return AuditHead(self._service, self._instance.folder.instance, sequence, chain_hash)

    def require_writable(self) -> None:
        """Raises UnavailableError (AUDIT_UNAVAILABLE) when an event would not be taken over just now."""
        self._admit()

    def status(self) -> WriterStatus:
        """A snapshot."""
        waiting = len(self._pending) + len(self._in_flight)
        return WriterStatus(waiting, tuple(sorted(self._blocked)), self._instance.head[0], self._unshipped)

    # Group commit

    def _admit(self) -> None:
        if self._blocked or len(self._pending) >= self._limits.buffer_events:
            raise self._refusal()

    def _refusal(self) -> UnavailableError:
        return UnavailableError(
            "the audit trail cannot be written just now, so the call was refused; try again shortly",
            reason="AUDIT_UNAVAILABLE",
            metadata={"cause": ", ".join(sorted(self._blocked)) or "the buffer is full"},
            retry_after=1.0,
        )

    def _close_folds(self) -> None:
        if self._fold_timer is not None:
            self._fold_timer.cancel()
            self._fold_timer = None
        if self._folds:
            self._pending.extend((fold, None) for fold in self._folds.values())
            self._folds.clear()
            self._flush_soon()

    def _flush_soon(self) -> None:
        """Flushes at the end of this turn of the loop, so that callers of one turn share a commit."""
        if self._flush_at_once or self._in_flight:
            return
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        self._flush_at_once = True
        self._flush_timer = self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        self._flush_at_once = False
        if self._in_flight or not self._pending:
            return
        size = self._limits.batch_events
        self._in_flight, self._pending = self._pending[:size], self._pending[size:]
        batch = [entry for entry, _ in self._in_flight]
        self._watchdog = self._loop.call_later(self._limits.durable_seconds, self._stall)
        self._thread.submit(lambda: _commit(self._instance, batch), self._settle)

    def _settle(self, result: object, failure: Exception | None) -> None:
        """Takes the outcome of a commit."""
        if self._watchdog is not None:
            self._watchdog.cancel()
        committed, error = result if isinstance(result, tuple) else (0, failure)
        batch, self._in_flight = self._in_flight, []
        self._blocked.discard("the disk hangs")
        self._settled += committed
        for _, future in batch[:committed]:
            if future is not None and not future.done():
                future.set_result(None)
        if error is not None:
            self._fail(batch[committed:], error)
            return
        if self._failing_since is not None:
            log.warning(RECOVERED)
            self._failing_since = None
            self._blocked.discard("the disk fails")
        self._pass_barriers()
        if self._barriers or any(future is not None for _, future in self._pending):
            self._flush_soon()
        elif self._pending and self._flush_timer is None:
            self._flush_timer = self._loop.call_later(self._limits.flush_seconds, self._flush)

    def _pass_barriers(self) -> None:
        while self._barriers and self._barriers[0][0] <= self._settled:
            future = self._barriers.pop(0)[1]
            if not future.done():
                future.set_result(None)

    def _fail(self, rest: list[_Entry], error: Exception) -> None:
        """Refuses who waits; keeps buffered events, whose callers were served, and tries again."""
        now = self._loop.time()
        if self._failing_since is None:
            self._failing_since = now
            log.error(COMMIT_FAILED, error=type(error).__name__, errno=getattr(error, "errno", None))
        self._pending = rest + self._pending
        self._refuse_waiters()
        # With nothing left to try again, nothing would lift the block: then each new caller tries the disk itself.
        if self._pending and now - self._failing_since >= self._limits.durable_seconds:
            self._blocked.add("the disk fails")
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_at_once = False
        self._flush_timer = self._loop.call_later(self._limits.retry_seconds, self._flush)

    def _stall(self) -> None:
        """The disk did not answer in time: refuses who waits and who comes, until it does."""
        log.error(COMMIT_STALLED, seconds=self._limits.durable_seconds)
        self._blocked.add("the disk hangs")
        for _, future in self._in_flight:
            if future is not None and not future.done():
                future.set_exception(self._refusal())
        self._refuse_waiters()

    def _refuse_waiters(self) -> None:
        kept = [entry for entry in self._pending if entry[1] is None]
        futures = [future for _, future in self._pending if future is not None]
        self._settled += len(self._pending) - len(kept)
        self._pending = kept
        futures += [future for _, future in self._barriers]
        self._barriers.clear()
        for future in futures:
            if not future.done():
                future.set_exception(self._refusal())

    # Sealing and shipping

    async def _keep_up(self) -> None:
        while True:
            await self._tend()
            await asyncio.sleep(self._limits.upkeep_seconds)

    async def _tend(self) -> None:
        """One round of upkeep; a step that fails is logged by its kind, and does not keep the next from running."""
        for step in (self.flush, self._report_head, self._seal_what_is_due, self._settle_orphans):
            try:
                await step()
            except Exception as error:
                self._log_upkeep_failure(error)

    async def _report_head(self) -> None:
        if self._report is not None:
            async with asyncio.timeout(self._limits.call_seconds):
                self._seal_now = await self._report(self.head())

    async def _seal_what_is_due(self) -> None:
        async with self._upkeep_lock:
            age = time.monotonic() - self._instance.opened_at
            if self._seal_now or age >= self._limits.seal_seconds:
                self._seal_now = False
                await self._thread.run(self._instance.roll)
            await self._ship()

    async def _settle_orphans(self) -> None:
        async with self._upkeep_lock:
            await settle_orphans(self._directory, self._instance.folder, self._outbox, self._disk)

    async def _ship(self) -> None:
        try:
            await self._outbox.run(self._instance.folder, lambda: self._instance.open_sequence)
        finally:
            self._unshipped = await asyncio.to_thread(unshipped_count, self._instance.folder)
            if self._unshipped > self._limits.max_unshipped:
                self._blocked.add("too many segments wait to be shipped")
            else:
                self._blocked.discard("too many segments wait to be shipped")

    def _log_upkeep_failure(self, error: Exception) -> None:
        reason = getattr(error, "reason", type(error).__name__)
        log.warning(UPKEEP_FAILED, reason=reason, unshipped=self._unshipped)


def _commit(instance: Instance, entries: list[AuditEvent | Fold]) -> tuple[int, OSError | None]:
    return instance.commit([entry.event() if isinstance(entry, Fold) else entry for entry in entries])
