"""An event loop on a thread of its own, through which programs without one use what is asynchronous."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import AsyncIterator, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")
_END: Any = object()
_JOIN_SECONDS = 10.0


@dataclass
class _State:
    """What the thread holds; it must not hold the portal, which ends the thread when nobody holds it any more."""

    pid: int = field(default_factory=os.getpid)
    started: threading.Event = field(default_factory=threading.Event)
    loop: asyncio.AbstractEventLoop | None = None
    stop: asyncio.Event | None = None
    thread: threading.Thread | None = None

    def run(self) -> None:
        asyncio.run(self._main())

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stop = asyncio.Event()
        self.started.set()
        await self.stop.wait()

    def end(self) -> None:
        """Ends the loop with what still runs on it; in a forked child there is nothing to end."""
        if self.pid != os.getpid() or self.loop is None or self.stop is None or self.thread is None:
            return
        if self.thread.is_alive():
            self.loop.call_soon_threadsafe(self.stop.set)
            self.thread.join(_JOIN_SECONDS)


class Portal:
    """Runs coroutines for any number of threads on one background loop.

    An interrupt (Ctrl-C) while waiting cancels what was waited for. A forked child cannot use its parent's portal: the
    thread stays behind, so a call there fails at once instead of waiting for ever.
    """

    def __init__(self) -> None:
        self._state = _State()
        self._state.thread = threading.Thread(target=self._state.run, name="hedgerow-sdk", daemon=True)
        self._state.thread.start()
        self._state.started.wait()
        self._finalizer = weakref.finalize(self, self._state.end)

    @property
    def usable(self) -> bool:
        """Whether calls can be made: not closed, and in the process that opened it."""
        return self._finalizer.alive and self._state.pid == os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine on the loop and returns its result.

        Raises:
            RuntimeError: the portal is closed, belongs to another process, or is used from its own thread.
        """
        try:
            loop = self._loop()
        except RuntimeError:
            coroutine.close()
            raise
        future = asyncio.run_coroutine_threadsafe(coroutine, loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, items: AsyncIterator[T]) -> Iterator[T]:
        """Yields what an asynchronous iterator yields, and closes it when the loop is left."""

        async def step() -> T:
            return await anext(items, _END)

        try:
            while (item := self.run(step())) is not _END:
                yield item
        finally:
            if self.usable:
                self.run(_close(items))

    def close(self) -> None:
        """Ends the loop; what still runs on it is cancelled."""
        self._finalizer()

    def _loop(self) -> asyncio.AbstractEventLoop:
        if self._state.pid != os.getpid():
            raise RuntimeError("this connection was opened before a fork; open one in each process, after the fork")
        if not self._finalizer.alive or self._state.loop is None:
            raise RuntimeError("this connection is closed; open a new one")
        if threading.current_thread() is self._state.thread:
            raise RuntimeError("a call from within a callback of the same connection would wait for itself")
        return self._state.loop


async def _close(items: Any) -> None:
    close = getattr(items, "aclose", None)
    if close is not None:
        await close()
