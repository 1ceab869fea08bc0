"""One daemon thread for an instance's file work.

A daemon and not an executor: a disk that hangs for good must not keep the process from ending.
"""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_Task = tuple[Callable[[], object], Callable[[object, Exception | None], None]]


class CommitThread:
    """Runs jobs one after another and hands results back to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str) -> None:
        """Starts the thread."""
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], object], done: Callable[[object, Exception | None], None]) -> None:
        """Calls `job` in the thread, then `done(result, error)` on the loop."""
        self._jobs.put((job, done))

    async def run(self, job: Callable[[], Result]) -> Result:
        """Awaits `job`; raises what it raises. A cancelled wait leaves the job running."""
        future: asyncio.Future[Result] = self._loop.create_future()

        def settle(result: object, error: Exception | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)  # type: ignore[arg-type]  # it is job's own result
            else:
                future.set_exception(error)

        self.submit(job, settle)
        return await future

    def stop(self) -> None:
        """Ends the thread after the jobs that wait; does not wait for it."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (task := self._jobs.get()) is not None:
            job, done = task
            result: object = None
            failure: Exception | None = None
            try:
                result = job()
            except Exception as error:  # handed to `done`, whatever it is
                failure = error
            try:
                self._loop.call_soon_threadsafe(done, result, failure)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
