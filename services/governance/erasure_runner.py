"""Carries erasure requests out: every store in turn, then a search of logs and trail, then the signed receipt.

A crash loses nothing but the raw identifier: RUNNING requests are taken up again from their pseudonym, every part is
repeatable, and the search of the logs, which needs the identifier, then fails the request by name. Asking again with the
same ``request_id`` and the identifier takes a FAILED request up again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from hedgerow.errors import (
    AlreadyExistsError,
    HedgerowError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)
from libs.telemetry import get_logger
from services.governance.changes import Changes
from services.governance.erasure import ErasureRequest, State, StoreErasure
from services.governance.metrics import ErasureCounts
from services.governance.policy import Sign
from services.governance.store import ErasureStore
from services.governance.subject_search import SearchResult, SubjectSearch, search_paths
from services.governance.trail import AuditTrail

SELF = "governance"
ATTEMPTS = 5
FORGOTTEN = (
    "governance restarted and no longer knows the subject's identifier, so logs were searched for the pseudonym only; "
    "ask again with the same request_id"
)
log = get_logger()

Erase = Callable[[ErasureRequest], Awaitable[Sequence[StoreErasure]]]
"""Has one service erase the subject from its stores; raises HedgerowError. Repeatable."""


@dataclass(frozen=True, slots=True)
class ErasureLimits:
    """Bounds.

    Attributes:
        at_once: requests at work at once.
        waiting: requests that may wait.
        pause_seconds: before the first repetition of what failed as UNAVAILABLE; doubles each time.
    """

    at_once: int = 2
    waiting: int = 64
    pause_seconds: float = 1.0


class ErasureRunner:
    """The erasure requests of the suite. Belongs to one event loop."""

    def __init__(
        self,
        store: ErasureStore,
        *,
        pseudonym: Callable[[str, str], Awaitable[str]],
        erasers: Mapping[str, Erase],
        trail: AuditTrail,
        log_paths: Sequence[Path],
        sign: Sign,
        limits: ErasureLimits,
    ) -> None:
        """Name the parts.

        Args:
            store: keeps the requests.
            pseudonym: (domain, subject) to the subject's pseudonym.
            erasers: by service, in the order they are asked.
            trail: searched after the stores.
            log_paths: folders and files of logs and traces, searched likewise.
            sign: by signingKeys/governance-receipts.
            limits: bounds.
        """
        self._store = store
        self._pseudonym = pseudonym
        self._erasers = erasers
        self._trail = trail
        self._log_paths = log_paths
        self._sign = sign
        self._limits = limits
        self._changes = Changes()
        self._slots = asyncio.Semaphore(limits.at_once)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._asked_ns: dict[str, int] = {}
        self.counts = ErasureCounts(self._asked_ns)

    async def resume(self) -> None:
        """Take up what a process before left at work."""
        for request in await asyncio.to_thread(self._store.running):
            self._start(request, None)

    async def close(self) -> None:
        """Stop the work; what is RUNNING is taken up by the next process."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def create(self, domain: str, subject: str, request_id: str) -> ErasureRequest:
        """Start an erasure and return it; one of the same ``request_id`` is returned, and taken up again when FAILED.

        Raises:
            AlreadyExistsError: ``request_id`` was used for another subject.
            ResourceExhaustedError: too many requests wait.
            UnavailableError: the pseudonym key cannot be had.
        """
        if len(self._tasks) >= self._limits.at_once + self._limits.waiting:
            raise ResourceExhaustedError("too many erasures wait; try again when some have ended", retry_after=10.0)
        subject_hash = await self._pseudonym(domain, subject)
        fresh = ErasureRequest(uuid.uuid4().hex, request_id, domain, subject_hash, time.time_ns())
        request = await asyncio.to_thread(self._store.add, fresh)
        if (request.domain, request.subject_hash) != (domain, subject_hash):
            raise AlreadyExistsError(
                "request_id was used for the erasure of another subject; make up a new one",
                metadata={"resource": request.name},
            )
        if request.state is State.FAILED and request.id not in self._tasks:
            request = request.retried()
            await self._save(request)
        if request.state is State.RUNNING and request.id not in self._tasks:
            self._start(request, subject)
        return request

    async def get(self, request_id: str) -> ErasureRequest:
        """Return a request by the last part of its name. Raises NotFoundError."""
        return await asyncio.to_thread(self._store.get, request_id)

    async def page(self, position: tuple[int, str] | None, limit: int) -> list[ErasureRequest]:
        """Return requests, newest first, behind a (create_ns, id) position."""
        return await asyncio.to_thread(self._store.page_before, position, limit)

    async def watch(self, request_id: str) -> AsyncIterator[ErasureRequest]:
        """Yield a request at each change until it ends. Raises NotFoundError."""
        sent: ErasureRequest | None = None
        while True:
            changed = self._changes.next()
            request = await self.get(request_id)
            if request == sent:
                await changed.wait()
                continue
            sent = request
            yield request
            if request.state is not State.RUNNING:
                return

    # ---- the work

    def _start(self, request: ErasureRequest, subject: str | None) -> None:
        task = asyncio.create_task(self._run(request, subject), name=f"erasure-{request.id}")
        self._tasks[request.id] = task
        self._asked_ns[request.id] = request.create_ns
        task.add_done_callback(lambda _: self._forget(request.id))

    def _forget(self, request_id: str) -> None:
        self._tasks.pop(request_id, None)
        self._asked_ns.pop(request_id, None)

    async def _run(self, request: ErasureRequest, subject: str | None) -> None:
        async with self._slots:
            for service, erase in self._erasers.items():
                answers = await self._guarded(service, "all", partial(self._patiently, partial(erase, request)))
                request = await self._reported(request, service, answers)
            answers = [*await self._search_trail(request, subject), *await self._search_logs(request, subject)]
            request = await self._reported(request, SELF, answers)
            await self._end(request)

    async def _reported(self, request: ErasureRequest, service: str, answers: Sequence[StoreErasure]) -> ErasureRequest:
        request = request.reported(service, answers)
        await self._save(request)
        return request

    async def _patiently(self, attempt: Callable[[], Awaitable[Sequence[StoreErasure]]]) -> Sequence[StoreErasure]:
        for number in range(ATTEMPTS - 1):
            try:
                return await attempt()
            except UnavailableError:
                await asyncio.sleep(self._limits.pause_seconds * 2**number)
        return await attempt()

    async def _guarded(
        self, service: str, store: str, work: Callable[[], Awaitable[Sequence[StoreErasure]]]
    ) -> Sequence[StoreErasure]:
        """Do one part; a failure becomes the part's answer, so that it stands in the receipt."""
        try:
            answers = await work()
        except HedgerowError as error:
            failure: HedgerowError = error
        except Exception as error:  # whatever it is, the request must end and name this store
            log.error("erasure_part_failed", store=f"{service}/{store}", error=type(error).__name__)
            failure = InternalError("governance failed; its log says more")
        else:
            return answers or [StoreErasure(service, store, error="the service reported no store")]
        return [StoreErasure(service, store, error=f"{failure.reason}: {failure.message}")]

    async def _search_trail(self, request: ErasureRequest, subject: str | None) -> Sequence[StoreErasure]:
        async def work() -> Sequence[StoreErasure]:
            return [_found("auditTrail", await self._trail.search(_terms(request, subject)), subject)]

        return await self._guarded(SELF, "auditTrail", work)

    async def _search_logs(self, request: ErasureRequest, subject: str | None) -> Sequence[StoreErasure]:
        if not self._log_paths:
            return [StoreErasure(SELF, "logs", error="no log folder is configured; set HEDGEROW_LOG_DIR")]

        async def work() -> Sequence[StoreErasure]:
            result = await asyncio.to_thread(search_paths, self._log_paths, _terms(request, subject))
            return [_found("logs", result, subject)]

        return await self._guarded(SELF, "logs", work)

    async def _end(self, request: ErasureRequest) -> None:
        """Write and sign the receipt; without a signature the request stays RUNNING, for the next start."""
        request = request.ended(time.time_ns())
        pause = self._limits.pause_seconds
        while True:
            try:
                signature, _ = await self._sign(request.receipt)
                break
            except HedgerowError as error:
                log.warning("receipt_not_signed", request=request.name, reason=error.reason)
                await asyncio.sleep(pause)
                pause = min(60.0, 2 * pause)
        await self._save(request.signed(signature))
        self.counts.ended(request)
        log.info("erasure_ended", request=request.name, state=str(request.state))

    async def _save(self, request: ErasureRequest) -> None:
        await asyncio.to_thread(self._store.save, request)
        self._changes.announce()


def _terms(request: ErasureRequest, subject: str | None) -> SubjectSearch:
    return SubjectSearch([request.subject_hash] if subject is None else [request.subject_hash, subject])


def _found(store: str, result: SearchResult, subject: str | None) -> StoreErasure:
    return StoreErasure(
        SELF,
        store,
        objects_searched=result.objects,
        remaining_hits=result.hits,
        error=FORGOTTEN if subject is None else "",
    )
