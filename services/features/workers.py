"""Bounded background work: threads that compute, jobs that outlive their call, and who waits for their news."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

from hedgerow.errors import CallCancelledError, ResourceExhaustedError
from libs.telemetry.pool import ObservedPool

T = TypeVar("T")


FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 30.0


def pauses() -> Iterator[float]:
    """Yield how long to wait before each repetition, without end."""
    pause = FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


class Stop:
    """Tells work in a thread to end: the work calls it at points where it can."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to end."""
        self._event.set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until the work is asked to end."""
        self._event.wait(seconds)

    def __call__(self) -> None:
        """Raise CallCancelledError when the work was asked to end."""
        if self._event.is_set():
            raise CallCancelledError("the work was stopped before it ended; ask for it again")


class Workers:
    """A fixed number of threads and a bounded number of tasks that wait for one."""

    def __init__(self, name: str, *, threads: int, waiting: int) -> None:
        self.pool = ObservedPool(threads, name)
        self._limit = threads + waiting
        self._stops: dict[Future[Any], Stop] = {}
        self._lock = threading.Lock()

    async def run(self, work: Callable[[Stop], T], *, to_end: bool = False) -> T:
        """Run work in a thread and return its result; cancelling the caller asks the work to end.

        Args:
            work: is given what to call now and then.
            to_end: a caller who is cancelled waits until the work has ended.

        Raises:
            ResourceExhaustedError: as many tasks as allowed run or wait.
        """
        stop = Stop()
        with self._lock:
            if len(self._stops) >= self._limit:
                raise ResourceExhaustedError(
                    f"{self._limit} computations run or wait; try again shortly", retry_after=1.0
                )
            future = self.pool.submit(work, stop)
            self._stops[future] = stop
        future.add_done_callback(self._forget)
        try:
            return await asyncio.wrap_future(future)
        finally:
            stop.set()
            if to_end and not future.done():
                with contextlib.suppress(Exception):
                    await asyncio.wrap_future(future)

    def close(self) -> None:
        """Ask all work to end and wait until it has."""
        with self._lock:
            stops = list(self._stops.values())
        for stop in stops:
            stop.set()
        self.pool.shutdown(wait=True, cancel_futures=True)

    def _forget(self, future: Future[Any]) -> None:
        with self._lock:
            del self._stops[future]


class Jobs:
    """Work that goes on after the call that asked for it, bounded in number."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tasks: set[asyncio.Task[None]] = set()
        self._beginnings: set[asyncio.Task[Any]] = set()

    def check_room(self) -> None:
        """Refuse another job when as many as allowed run or wait.

        Raises:
            ResourceExhaustedError: there is no room.
        """
        if len(self._tasks) >= self._limit:
            raise ResourceExhaustedError(f"{self._limit} jobs run or wait; try again later", retry_after=5.0)

    async def begin(self, beginning: Coroutine[Any, Any, T]) -> T:
        """Do what comes between keeping a job and starting it, to its end also when the caller goes away meanwhile."""
        task = asyncio.create_task(beginning)
        self._beginnings.add(task)
        task.add_done_callback(self._begun)
        return await asyncio.shield(task)

    def _begun(self, task: asyncio.Task[Any]) -> None:
        self._beginnings.discard(task)
        if not task.cancelled():
            task.exception()  # asked for, since the caller who would be told may be gone

    def start(self, job: Coroutine[Any, Any, None]) -> None:
        """Start a job, which itself sees to its errors."""
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all jobs and wait until they have ended."""
        if self._beginnings:
            await asyncio.wait(self._beginnings)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class ChangeFeed:
    """Wakes those who watch a resource. Belongs to one event loop."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[asyncio.Event]] = {}

    def notify(self, name: str) -> None:
        """Say that a resource has changed."""
        for event in self._watchers.get(name, ()):
            event.set()

    @contextlib.asynccontextmanager
    async def watch(self, name: str) -> AsyncIterator[asyncio.Event]:
        """Yield an event that is set at each change from now on."""
        event = asyncio.Event()
        self._watchers.setdefault(name, set()).add(event)
        try:
            yield event
        finally:
            self._watchers[name].discard(event)
            if not self._watchers[name]:
                del self._watchers[name]
