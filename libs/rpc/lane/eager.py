"""Starts a call at once, in the turn of the loop in which its request came, and makes no task for one that never waits.

Most calls are answered from memory: their coroutine ends in its first step. A task for each would cost a quarter of such a
call. So one task stands by: it is the current one while a first step runs, in a context of its own. A coroutine that
waits is handed to that task, which runs the rest of it, and the next task stands by. To a handler there is no difference:
its task is the same from its first step to its last, with the same context, cancellation and timeouts.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from asyncio.tasks import _enter_task, _leave_task  # named in Python's guide to extending asyncio
from collections.abc import Coroutine, Generator
from typing import Any


class StandBy:
    """The task that stands by. Belongs to one loop, outside of any task.

    Attributes:
        is_ready: whether that task has begun; until then each call gets a task of its own.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._next()

    def _next(self) -> None:
        self.is_ready = False
        self._context = contextvars.copy_context()
        self._blank = self._context.copy()
        self._handed: asyncio.Future[tuple[Coroutine[Any, Any, None], Any]] = self._loop.create_future()
        self._task = self._loop.create_task(_run_rest(self, self._handed), context=self._context)

    def run(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None] | None:
        """Run the first step; return the task that runs the rest, or None when the coroutine has ended."""
        if not self.is_ready:
            # A task that is cancelled before its first step never takes it, and what it was handed would be lost.
            return self._loop.create_task(coroutine)
        task = self._task
        _enter_task(self._loop, task)
        try:
            awaited = self._context.run(coroutine.send, None)
        except (StopIteration, asyncio.CancelledError):
            if self._context != self._blank or task.cancelling():
                self.close()  # it left something behind that is none of the next one's business
                self._next()
            return None
        finally:
            _leave_task(self._loop, task)
        self._handed.set_result((coroutine, awaited))
        self._next()
        return task

    def close(self) -> None:
        """Let the task go."""
        self._task.cancel()


async def _run_rest(stand_by: StandBy, handed: asyncio.Future[tuple[Coroutine[Any, Any, None], Any]]) -> None:
    stand_by.is_ready = True
    cancelled: asyncio.CancelledError | None = None
    try:
        await handed
    except asyncio.CancelledError as error:
        if not handed.done() or handed.cancelled():
            raise
        cancelled = error
    await _steps(*handed.result(), cancelled)


@types.coroutine
def _steps(
    coroutine: Coroutine[Any, Any, None], awaited: Any, error: BaseException | None
) -> Generator[Any, Any, None]:
    """Run a coroutine from where it waits; with an error, it was cancelled before this task had its turn."""
    if error is not None and awaited is not None and awaited.cancel():
        error = None  # it comes out of what is waited for
    value = None
    while True:
        if error is None:
            try:
                value = yield awaited
            except BaseException as thrown:
                error = thrown
        try:
            awaited = coroutine.send(value) if error is None else coroutine.throw(error)
        except StopIteration:
            return
        error = None
