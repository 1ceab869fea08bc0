"""Bounded background work: threads that compute, jobs that outlive their call, and who waits for their news."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from hedgerow.errors import CallCancelledError, ResourceExhaustedError
from libs.telemetry.pool import ObservedPool

T = TypeVar("T")


class Stop:
    """Tells work in a thread to end: the work calls it at points where it can."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask the work to end."""
        self._event.set()

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

    async def run(self, work: Callable[[Stop], T]) -> T:
        """Run work in a thread and return its result; cancelling the caller asks the work to end.

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

    def check_room(self) -> None:
        """Refuse another job when as many as allowed run or wait.

        Raises:
            ResourceExhaustedError: there is no room.
        """
        if len(self._tasks) >= self._limit:
            raise ResourceExhaustedError(f"{self._limit} jobs run or wait; try again later", retry_after=5.0)

    def start(self, job: Coroutine[Any, Any, None]) -> None:
        """Start a job, which itself sees to its errors."""
        task = asyncio.create_task(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancel all jobs and wait until they have ended."""
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
