"""The HTTP/2 side of one connection: events become calls, answers become frames, and every peer stays within limits."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Mapping

from hedgerow.errors import DeadlineExceededError, HedgerowError, ResourceExhaustedError, UnimplementedError
from libs.rpc.call import Peer
from libs.rpc.chain import MAX_TEXT
from libs.rpc.lane.exchange import Exchange
from libs.rpc.lane.framing import HEAD, OK, YEAR, check_encoding, http_fault, prefix, stated_deadline, status_trailers
from libs.rpc.lane.session import (
    CALM,
    IDLE_FRAMES,
    NO_ERROR,
    DataReceived,
    Event,
    Header,
    RequestReceived,
    Session,
    SessionError,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)
from libs.rpc.lane.shared import Lane, Wire
from libs.rpc.service import Method

COPY = 16 * 1024
"""Below this a message is copied behind its prefix, which costs less than a call more."""
CHUNK = 128 * 1024
CHUNKS = 8
"""What one connection may write before others have their turn: a MiB."""
GOAWAY_SECONDS = 1.0
"""Between saying that a connection will close and refusing new streams: what is on its way is still served."""
CLOSE_SECONDS = 5.0


class Connection:
    """One peer."""

    __slots__ = (
        "_active", "_age", "_called", "_closing", "_early", "_exchanges", "_heard", "_held", "_idle_frames", "_last_call",
        "_noticed", "_opened", "_paused", "_pinged", "_receiving", "_retired", "_rooms", "_scheduled", "_settled",
        "_untimed", "_wire", "lane", "peer", "session",
    )  # fmt: skip

    def __init__(self, lane: Lane, peer: Peer | None, wire: Wire) -> None:
        self.lane = lane
        self.session = Session(lane.limits)
        self.peer = peer
        self._wire = wire
        self._exchanges: dict[int, Exchange] = {}
        # Of this turn of the loop: most calls are answered in the turn they come in, and never need a timer.
        self._untimed: list[Exchange] = []
        self._rooms: dict[Exchange, asyncio.Future[None]] = {}
        self._early: set[int] = set()
        self._receiving = self._scheduled = self._active = self._called = self._settled = self._retired = False
        self._idle_frames = self._held = 0
        self._opened = self._heard = self._last_call = time.monotonic()
        self._age = lane.limits.age_seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter
        # Since when, or None: the wire is full; a PING is out; closing was announced; the wire is being closed.
        self._paused: float | None = None
        self._pinged: float | None = None
        self._noticed: float | None = None
        self._closing: float | None = None
        lane.connections.add(self)
        self.soon()

    # ---- what the wire says

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes of the peer."""
        self._active = True
        session, exchanges = self.session, self._exchanges
        self._receiving = True  # what is answered meanwhile leaves at the end
        session.receive(data)
        for event in session.events():  # by their exact type, which costs a fifth of asking what they are instances of
            if type(event) is DataReceived:
                exchange = exchanges.get(event.stream_id)
                if exchange is None:
                    session.consumed(len(event.data), event.stream_id)
                else:
                    exchange.data(event.data, event.end_stream)
            elif type(event) is RequestReceived:
                try:  # noqa: SIM105 - runs for every call, and suppress is dear
                    self._request(event)
                except SessionError:
                    pass  # it is over already
            elif type(event) is StreamClosed or type(event) is StreamReset:
                if event.stream_id in exchanges or self._early:
                    self._gone(event.stream_id)
            else:
                self._note(event)
        if self._idle_frames > self.lane.limits.idle_frames[0]:
            session.terminate(CALM)
        self._receiving = False
        self.flush()

    def _gone(self, stream_id: int) -> None:
        self._early.discard(stream_id)
        exchange = self._exchanges.pop(stream_id, None)
        if exchange is not None:
            self._drop(exchange)

    def _note(self, event: Event) -> None:
        if isinstance(event, TrailersReceived):
            exchange = self._exchanges.get(event.stream_id)
            if exchange is not None:
                exchange.end()
        elif isinstance(event, IDLE_FRAMES):
            self._settled = self._settled or isinstance(event, SettingsReceived)
            self._idle_frames += 1

    def pause(self) -> None:
        """Write no more: the peer does not keep up."""
        self._paused = time.monotonic()

    def resume(self) -> None:
        """Write again."""
        self._paused = None
        self.flush()

    def lost(self) -> None:
        """End everything: the wire is gone."""
        self.lane.connections.discard(self)
        self._closing = self._closing or time.monotonic()
        self._paused = self._paused or self._closing
        exchanges, self._exchanges = self._exchanges, {}
        for exchange in exchanges.values():
            self._drop(exchange)

    def _drop(self, exchange: Exchange) -> None:
        exchange.close()
        exchange.cancel()

    # ---- requests

    def _request(self, event: RequestReceived) -> None:
        self._called = True
        fields = dict(event.headers)
        method = self.lane.methods.get(fields.get(b":path", b""))
        if (
            method is None
            or fields.get(b":method") != b"POST"
            or (fields.get(b"content-type") != b"application/grpc" and http_fault(fields))
            or self.session.queued() > self.lane.limits.answers
        ):
            self._turn_away(event, fields)
        else:
            self._open(event, method, fields)

    def _turn_away(self, event: RequestReceived, fields: Mapping[bytes, bytes]) -> None:
        """Refuse what reaches no method."""
        path = fields.get(b":path", b"")
        if status := http_fault(fields):
            headers = [(b":status", status)]
        elif path not in self.lane.methods:
            text = path.decode("latin-1")[:MAX_TEXT]
            headers = HEAD + status_trailers(UnimplementedError(f"{text} is not a method of this server"))
        else:
            self.lane.chain.shed()
            headers = HEAD + status_trailers(self.overloaded())
        self.session.respond(event.stream_id, headers, end_stream=True)
        self._answered(event.stream_id, event.end_stream)

    def _open(self, event: RequestReceived, method: Method, fields: Mapping[bytes, bytes]) -> None:
        fault: HedgerowError | None = None
        now, deadline = time.monotonic(), None
        try:
            deadline = stated_deadline(fields, now)
            check_encoding(fields.get(b"grpc-encoding"))
        except HedgerowError as error:
            fault = error
        # A stream without a deadline is refused by the chain, or is of a protocol whose streams stay open.
        end = deadline or now + (YEAR if method.client_streaming else self.lane.limits.request_seconds)
        exchange = self._exchanges[event.stream_id] = Exchange(self, event.stream_id, method, fields, deadline, end)
        self._untimed.append(exchange)
        if method.client_streaming:
            exchange.start()
        if fault is not None:
            exchange.refuse(fault)
        elif event.end_stream:
            exchange.end()

    def hold(self, size: int) -> None:
        """Count request bytes that are in memory, or no longer."""
        self._held += size
        self.lane.held += size

    @property
    def overfull(self) -> bool:
        """Whether requests take more memory than they may."""
        return self._held > self.lane.limits.held_each or self.lane.held > self.lane.limits.held

    def overloaded(self) -> HedgerowError:
        """Return the refusal of more work than memory allows."""
        return ResourceExhaustedError("too many bytes are waiting here; try again shortly", retry_after=0.1)

    def expire(self, exchange: Exchange) -> None:
        """End a call whose deadline has come."""
        error = DeadlineExceededError("the call ran past its deadline and was stopped")
        self.finish(exchange, status_trailers(error))
        exchange.cancel()

    # ---- answers

    def answer(self, exchange: Exchange, message: bytes) -> None:
        """Send the one answer of a unary call and end it."""
        stream_id = exchange.stream_id
        if self._exchanges.pop(stream_id, None) is None:
            return  # cancelled or past its deadline meanwhile
        exchange.close()
        session = self.session
        try:
            session.respond(stream_id, HEAD)
            self._send(stream_id, message)
            session.trailers(stream_id, OK)
        except SessionError:
            return
        if not exchange.ended:
            self._early.add(stream_id)
        if not (self._receiving or self._scheduled):
            self.soon()

    def _send(self, stream_id: int, message: bytes) -> None:
        if len(message) < COPY:
            self.session.send(stream_id, prefix(message) + message)
        else:
            self.session.send(stream_id, prefix(message))
            self.session.send(stream_id, message)

    def write(self, exchange: Exchange, message: bytes) -> None:
        """Send one message of an answer."""
        stream_id = exchange.stream_id
        if stream_id not in self._exchanges:
            return
        try:
            if not exchange.head_sent:
                self.session.respond(stream_id, HEAD)
                exchange.head_sent = True
            self._send(stream_id, message)
        except SessionError:
            return
        self.soon()

    def finish(self, exchange: Exchange, trailers: list[Header]) -> None:
        """End a call with its status."""
        stream_id = exchange.stream_id
        if self._exchanges.pop(stream_id, None) is None:
            return
        exchange.close()
        try:
            if exchange.head_sent:
                self.session.trailers(stream_id, trailers)
            else:
                self.session.respond(stream_id, HEAD + trailers, end_stream=True)
        except SessionError:
            return
        self._answered(stream_id, exchange.ended)

    def _answered(self, stream_id: int, request_ended: bool) -> None:
        if not request_ended:
            self._early.add(stream_id)
        self.soon()

    def crowded(self, exchange: Exchange) -> bool:
        """Whether a stream has more waiting than its caller takes."""
        return self.session.queued(exchange.stream_id) > self.lane.limits.stream_answers

    async def room(self, exchange: Exchange) -> None:
        """Return when the caller of a stream has taken what waited, or most of it."""
        future = self._rooms[exchange] = self.lane.loop.create_future()
        try:
            await future
        finally:
            del self._rooms[exchange]

    # ---- frames out

    def soon(self) -> None:
        """Write what there is once, at the end of this turn of the loop: after the tasks that were just started."""
        if not (self._receiving or self._scheduled):
            self._scheduled = True
            self.lane.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write what the peer's windows and the wire allow."""
        session = self.session
        if self._untimed:
            for exchange in self._untimed:
                if exchange.stream_id in self._exchanges:
                    exchange.set_timer()
            self._untimed.clear()
        for _ in range(CHUNKS):
            if self._paused is not None:
                return
            data = session.take(CHUNK)
            if data:
                self._wire.write(data)
            if len(data) == CHUNK:
                continue
            if not (self._early and self._stop_uploads()):
                break
        else:
            self.soon()
        for exchange, future in self._rooms.items():
            if not future.done() and session.queued(exchange.stream_id) <= self.lane.limits.stream_answers // 2:
                future.set_result(None)
        if session.over and self._closing is None:
            self._close()

    def _stop_uploads(self) -> bool:
        """Tell callers who have their whole answer to stop sending; return whether there was one."""
        done = [stream_id for stream_id in self._early if not self.session.queued(stream_id)]
        for stream_id in done:
            self._early.discard(stream_id)
            with contextlib.suppress(SessionError):
                self.session.reset(stream_id, NO_ERROR)
        return bool(done)

    # ---- time

    def tick(self, now: float) -> None:
        """Hold the peer to its times; called each second."""
        limits = self.lane.limits
        if self._active:
            self._active, self._heard, self._pinged = False, now, None
        if self._called or self._exchanges:
            self._called, self._last_call = False, now
        self._idle_frames = max(0, self._idle_frames - limits.idle_frames[1])
        if self._closing is not None:
            if now - self._closing > CLOSE_SECONDS:
                self._wire.abort()
        elif (self._paused is not None and now - self._paused > limits.stalled_seconds) or (
            not self._settled and now - self._opened > limits.preface_seconds
        ):
            self._wire.abort()
        elif self._noticed is not None:
            self._retire(now)
        elif now - self._opened > self._age or (not self._exchanges and now - self._last_call > limits.idle_seconds):
            self.drain()
        elif self._pinged is not None:
            if now - self._pinged > limits.keepalive_timeout:
                self._wire.abort()
        elif now - self._heard > limits.keepalive_seconds:
            self._pinged = now
            self._say(self.session.ping)

    def drain(self) -> None:
        """Ask the peer to go elsewhere; calls in progress go on."""
        if self._noticed is None:
            self._noticed = time.monotonic()
            self._say(self.session.notice)

    def _retire(self, now: float) -> None:
        waited = now - (self._noticed or now)
        if waited > self.lane.limits.age_grace:
            self.session.terminate(NO_ERROR)
            self.soon()
        elif waited > GOAWAY_SECONDS and not self._retired:
            self._retired = True
            self._say(self.session.goaway)

    def _say(self, what: Callable[[], None]) -> None:
        try:
            what()
        except SessionError:
            self._wire.abort()
        self.soon()

    @property
    def answering(self) -> bool:
        """Whether an answer is still on its way out."""
        return self._scheduled or self._paused is not None or self.session.queued() > 0

    def terminate(self) -> None:
        """Close now, with a GOAWAY."""
        self.flush()
        self.session.terminate(NO_ERROR)
        self.flush()
        if self._closing is None:
            self._wire.abort()  # it is full

    def _close(self) -> None:
        self._closing = time.monotonic()
        self._wire.close()
