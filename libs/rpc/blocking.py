"""Finds handlers that hold up the event loop, and names them. For tests; a server in operation has its loop-lag metric.

What counts is the processor time of the loop's own thread in one step of a handler, that is between two of its awaits:
elapsed time would also count what other processes of a busy machine take. So a handler that sleeps is not found, one that
computes is. Work that takes long belongs in ``asyncio.to_thread``, whose threads the runtime bounds.
"""

from __future__ import annotations

import time
import types
from collections.abc import AsyncIterator, Callable, Generator
from dataclasses import replace
from typing import Any

from libs.rpc.service import Method

LIMIT = 0.05
"""Seconds of a step."""
Report = Callable[[str, float], None]


def watched(method: Method, report: Report) -> Method:
    """Return a method that reports its path and the seconds of each step of its handler beyond the limit."""
    handler, path = method.handler, method.path

    async def answer(request: Any, call: Any) -> Any:
        return await _measured(handler(request, call), path, report)

    async def answers(request: Any, call: Any) -> AsyncIterator[Any]:
        responses = handler(request, call)
        try:
            while True:
                try:
                    response = await _measured(responses.__anext__(), path, report)
                except StopAsyncIteration:
                    return
                yield response
        finally:
            await responses.aclose()

    return replace(method, handler=answers if method.server_streaming else answer)


@types.coroutine
def _measured(awaitable: Any, path: str, report: Report) -> Generator[Any, Any, Any]:
    """Run an awaitable step by step."""
    steps = awaitable.__await__()
    value, error = None, None
    while True:
        begun = time.thread_time()
        try:
            awaited = steps.send(value) if error is None else steps.throw(error)
        except StopIteration as end:
            return end.value
        finally:
            if (took := time.thread_time() - begun) > LIMIT:
                report(path, took)
        value = error = None
        try:
            value = yield awaited
        except BaseException as thrown:
            error = thrown
