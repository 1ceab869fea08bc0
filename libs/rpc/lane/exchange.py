"""One call on a connection: its request on the way in, and the task that runs it behind the chain."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from hedgerow.errors import CallCancelledError, HedgerowError, InternalError, InvalidArgumentError
from libs.rpc.call import Peer
from libs.rpc.lane.framing import (
    OK,
    PREFIX,
    Compressed,
    Messages,
    binary_metadata,
    decompress,
    status_trailers,
    text_metadata,
)
from libs.rpc.service import Method
from libs.telemetry import fault_location, get_logger

if TYPE_CHECKING:
    from libs.rpc.lane.connection import Connection

BURST = 64
"""Messages of one stream in a row before others have their turn."""
FINISH_SECONDS, FINISH_MESSAGES = 0.5, 64
# What a waiting message costs beside its bytes.
OVERHEAD = 64
DECOMPRESS_HERE = 64 * 1024
log = get_logger()


class Exchange:
    """A call from its headers to its trailers, and what the chain is told of it.

    Most calls are one message in one frame, answered in the turn of the loop in which they come; what only others need is
    made when it is needed, and stands here until then.

    Attributes:
        ended: whether the request is complete.
        head_sent: whether the answer has begun.
    """

    ended = head_sent = _closed = _widened = False
    _metadata: Mapping[str, str] | None = None
    _messages: Messages | None = None
    _queue: deque[bytes] | None = None
    _held = _unconsumed = 0
    _failure: HedgerowError | None = None
    _waiter: asyncio.Future[None] | None = None
    _task: asyncio.Task[None] | None = None
    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self, connection: Connection, stream_id: int, method: Method, fields: Mapping[bytes, bytes],
        deadline: float | None, end: float,
    ) -> None:  # fmt: skip
        """Begin.

        Args:
            connection: where it came from.
            stream_id: of HTTP/2.
            method: what is called.
            fields: the headers.
            deadline: of the caller, by the monotonic clock, or None.
            end: when it is ended, if nothing ends it before.
        """
        self._connection = connection
        self.stream_id = stream_id
        self.method = method
        self._fields = fields
        self._deadline = deadline
        self._end: float | None = end

    # ---- what the chain asks

    def peer(self) -> Peer | None:
        """The certificate and TLS version of the connection."""
        return self._connection.peer

    def metadata(self) -> Mapping[str, str]:
        """Textual request metadata."""
        if self._metadata is None:
            self._metadata = text_metadata(self._fields.items())
        return self._metadata

    def binary_metadata(self) -> Mapping[str, bytes]:
        """Binary request metadata."""
        return binary_metadata(self._fields.items())

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline, or None without one."""
        return None if self._deadline is None else self._deadline - time.monotonic()

    # ---- what the connection hears

    def data(self, data: bytes, ended: bool) -> None:
        """Take bytes of the request."""
        method, size = self.method, len(data) - PREFIX
        if (
            ended and method.is_unary and self._messages is None and self._task is None and size >= 0 and not data[0]
            and int.from_bytes(data[1:PREFIX], "big") == size <= method.access.max_message_bytes
        ):  # fmt: skip
            self._connection.session.consumed(len(data), self.stream_id)
            self.ended = True
            self._run(self._unary(data[PREFIX:]))
            return
        if data:
            self._collect(data)
        if ended:
            self.end()

    def _collect(self, data: bytes) -> None:
        connection = self._connection
        if self._failure is not None:
            connection.session.consumed(len(data), self.stream_id)
            return
        messages, queue = self._body()
        try:
            complete = messages.feed(data)
        except HedgerowError as error:
            connection.session.consumed(len(data), self.stream_id)
            self.refuse(error)
            return
        self._hold(len(data) + OVERHEAD * len(complete))
        if self.method.client_streaming and complete:
            self._unconsumed += len(data)  # the window opens again when the handler has taken them
        else:
            connection.session.consumed(len(data), self.stream_id)
            if messages.missing > connection.lane.limits.stream_window and not self._widened:
                # It is counted like all that is incomplete; in small windows it would only take more round trips.
                self._widened = True
                connection.session.widen(messages.missing, self.stream_id)
        queue.extend(complete)
        if len(queue) > 1 and not self.method.client_streaming:
            self.refuse(_not_one())
        elif connection.overfull:
            self.refuse(connection.overloaded())
        else:
            self._wake()

    def _body(self) -> tuple[Messages, deque[bytes]]:
        if self._messages is None or self._queue is None:
            self._messages = Messages(self.method.access.max_message_bytes, self._fields.get(b"grpc-encoding"))
            self._queue = deque()
        return self._messages, self._queue

    def end(self) -> None:
        """Take note that the request is complete."""
        self.ended = True
        if self._failure is not None:
            return
        messages, queue = self._body()
        try:
            messages.finish()
            if not self.method.client_streaming and len(queue) != 1:
                raise _not_one()
        except HedgerowError as error:
            self.refuse(error)
            return
        if self.method.client_streaming:
            self._wake()
            return
        compressed = type(queue[0]) is not bytes
        if self._deadline is None and (self.method.server_streaming or not compressed):
            # What bounded the request ends here; the chain has a bound for the handler.
            self._stop_timer()
        if self.method.server_streaming or compressed:
            # As a stream, whose messages are inflated when the chain takes them: after it has let the caller in.
            self.start()
        else:
            message = queue.popleft()
            self._release()
            self._run(self._unary(message))

    def set_timer(self) -> None:
        """End the call when it is time, unless that has come off."""
        if self._end is not None:
            connection = self._connection
            self._timer = connection.lane.loop.call_later(self._end - time.monotonic(), connection.expire, self)

    def _stop_timer(self) -> None:
        self._end = None
        if self._timer is not None:
            self._timer.cancel()

    def refuse(self, error: HedgerowError) -> None:
        """End the request with a fault of it, which the chain records and the caller is told."""
        self._failure = error
        if self._queue is not None:
            self._queue.clear()
        if self._task is None:
            self.start()
        self._wake()

    def close(self) -> None:
        """Let go of all but the task."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._queue is not None:
            self._queue.clear()
        if self._held:
            self._release()
        if self._unconsumed:
            self._connection.session.consumed(self._unconsumed, self.stream_id)
            self._unconsumed = 0

    def cancel(self) -> None:
        """Stop the handler: nobody waits for it."""
        if self._task is not None:
            self._task.cancel()

    # ---- the task

    def start(self) -> None:
        """Run a call that streams, that is compressed, or whose request is at fault, so that the chain records it."""
        self._run(self._stream())

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self._task = self._connection.lane.stand_by.run(coroutine)

    async def _unary(self, message: bytes) -> None:
        try:
            answer = await self._connection.lane.chain.unary(self.method, message, self)
        except HedgerowError as error:
            self._connection.finish(self, status_trailers(error))
        except asyncio.CancelledError:
            self._connection.finish(self, status_trailers(CallCancelledError("the call was cancelled")))
            raise
        except Exception as error:
            self._fault(error)
        else:
            self._connection.answer(self, answer)

    async def _stream(self) -> None:
        connection, sent = self._connection, 0
        responses = connection.lane.chain.stream(self.method, self._requests(), self)
        try:
            async for response in responses:
                connection.write(self, response)
                sent += 1
                if connection.crowded(self):
                    await connection.room(self)
                elif not sent % BURST:
                    await asyncio.sleep(0)
        except HedgerowError as error:
            if not self.ended and self._failure is None:
                await self._let_finish()
            connection.finish(self, status_trailers(error))
        except asyncio.CancelledError:
            connection.finish(self, status_trailers(CallCancelledError("the call was cancelled")))
            raise
        except Exception as error:
            self._fault(error)
        else:
            connection.finish(self, OK)
        finally:
            await responses.aclose()  # type: ignore[attr-defined]

    def _fault(self, error: Exception) -> None:
        """Nothing passes the chain but typed errors; should it have a fault of its own, the caller learns that much."""
        log.error("lane_call_failed", method=self.method.path, error=type(error).__name__, where=fault_location(error))
        self._connection.finish(self, status_trailers(InternalError("the server failed")))

    async def _requests(self) -> AsyncIterator[bytes]:
        taken, queue = 0, self._body()[1]
        while True:
            while queue:
                message = queue.popleft()
                self._give_back(len(message) + PREFIX)
                taken += 1
                if not taken % BURST:
                    await asyncio.sleep(0)
                yield message if type(message) is bytes else await self._plain(message)
            if self._failure is not None:
                raise self._failure
            if self._closed:  # what is missing here was dropped: not the end of the stream
                raise CallCancelledError("the call ended before all of its messages had been taken")
            if self.ended:
                return
            self._waiter = self._connection.lane.loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    async def _let_finish(self) -> None:
        """Take what a failed caller is still sending, within bounds.

        A ``grpc.aio`` client whose write meets the end of the call reports INTERNAL in place of the status it was sent
        (grpc/grpc#36066); a short stream that is let finish gets the true one.
        """
        with contextlib.suppress(TimeoutError, HedgerowError):
            async with asyncio.timeout(FINISH_SECONDS):
                count = 0
                async for _ in self._requests():
                    count += 1
                    if count >= FINISH_MESSAGES:
                        return

    async def _plain(self, message: bytes) -> bytes:
        limit = self.method.access.max_message_bytes
        if len(message) <= DECOMPRESS_HERE and limit <= 4 * 1024 * 1024:
            return decompress(Compressed(message), limit)
        return await asyncio.to_thread(decompress, Compressed(message), limit)

    # ---- what it holds

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _hold(self, size: int) -> None:
        self._held += size
        self._connection.hold(size)

    def _release(self) -> None:
        self._connection.hold(-self._held)
        self._held = 0

    def _give_back(self, size: int) -> None:
        """Free a message that the handler takes, and open the caller's window by it."""
        self._hold(-min(size + OVERHEAD, self._held))
        opened = min(size, self._unconsumed)
        if opened:
            self._unconsumed -= opened
            self._connection.session.consumed(opened, self.stream_id)
            self._connection.soon()


def _not_one() -> InvalidArgumentError:
    return InvalidArgumentError("this call takes exactly one message", reason="MESSAGE_MALFORMED")
