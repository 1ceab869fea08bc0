"""The seam to libnghttp2: all that the lane asks of it, and the only module that imports its binding.

Another binding takes the place of ``ngh2`` by giving these calls and events. One session is one connection's HTTP/2
state: bytes in, events out; calls in, bytes out. It owns no socket and no clock.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable

from ngh2 import Configuration, Connection, Role, events, exceptions
from ngh2.enums import ErrorCode, Setting

from libs.rpc.lane.limits import Limits

Header = tuple[bytes, bytes]
SessionError = exceptions.NGH2Error
"""A call came too late: its stream or the session is over."""

Event = events.Event
RequestReceived = events.RequestReceived
DataReceived = events.DataReceived
TrailersReceived = events.TrailersReceived
StreamReset = events.StreamReset
StreamClosed = events.StreamClosed
SettingsReceived = events.SettingsReceived
# A peer may send these at will, and they ask for an answer or for work.
IDLE_FRAMES = (events.PingReceived, events.SettingsReceived, events.PriorityUpdateReceived)

NO_ERROR = int(ErrorCode.NO_ERROR)
CALM = int(ErrorCode.ENHANCE_YOUR_CALM)
_PROTOCOL_ERROR = int(ErrorCode.PROTOCOL_ERROR)
# Above what the lane itself puts up with in one turn, so that its own answer to a flood comes first.
_OUTBOUND_ACKS = 4000
_MAX_FRAME = 64 * 1024


class Session:
    """The server's side of one HTTP/2 connection.

    Attributes:
        events: the events since the last call.
        respond: (stream, headers, end_stream=False).
        send: (stream, data): queue bytes of an answer.
        trailers: (stream, headers): end an answer.
        reset: (stream, error code).
        queued: (stream or None): bytes of answers not yet taken.
        notice: say that this connection will close; ``goaway``: take no new streams; then the last one ends it.
        ping: ask for a sign of life.
    """

    __slots__ = (
        "_acknowledge", "_connection", "_ending", "_last_words", "_take", "events", "goaway", "notice", "ping", "queued",
        "reset", "respond", "send", "trailers",
    )  # fmt: skip

    def __init__(self, limits: Limits) -> None:
        connection = self._connection = Connection(
            Role.SERVER,
            Configuration(
                auto_window_update=False,
                max_outbound_ack=_OUTBOUND_ACKS,
                stream_reset_rate_limit=limits.resets,
                glitch_rate_limit=limits.glitches,
                max_inbound_header_list_size=2 * limits.header_list,
                max_inbound_header_count=limits.headers,
            ),
        )
        connection.initiate_connection(
            {
                Setting.MAX_CONCURRENT_STREAMS: limits.streams,
                Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
                Setting.MAX_HEADER_LIST_SIZE: limits.header_list,
                Setting.MAX_FRAME_SIZE: _MAX_FRAME,
            }
        )
        connection.set_local_window_size(limits.connection_window)
        self._last_words = b""
        self._ending = False
        self.events: Callable[[], Iterable[Event]] = connection.events
        self.respond = connection.send_response
        self.send = connection.send_data
        self.trailers = connection.send_trailers
        self.reset = connection.reset_stream
        self.queued = connection.queued_body_size
        self._acknowledge = connection.acknowledge_received_data
        self._take = connection.data_to_send
        self.notice = connection.send_shutdown_notice
        self.goaway = connection.send_goaway
        self.ping = connection.ping

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes of the peer; violations end the session, and ``take`` has the GOAWAY."""
        if self._ending:
            return
        try:
            self._connection.receive_data(data)
        except exceptions.DenialOfServiceError:
            self._last_words = _goaway(CALM)
        except SessionError:
            self._last_words = _goaway(_PROTOCOL_ERROR)

    def consumed(self, amount: int, stream_id: int) -> None:
        """Give the peer its window back; without it a peer stops when its window is full."""
        try:  # noqa: SIM105 - runs for every frame, and suppress costs more than the call
            self._acknowledge(amount, stream_id)
        except SessionError:
            pass  # that stream is over

    def widen(self, window: int, stream_id: int) -> None:
        """Give the peer another window on one stream."""
        with contextlib.suppress(SessionError):
            self._connection.set_local_window_size(window, stream_id=stream_id)

    def take(self, amount: int) -> bytes:
        """Return at most ``amount`` bytes for the peer; fewer mean that there are no more just now."""
        if self._last_words:
            # After such a violation the binding is mute, so the GOAWAY is made here.
            words, self._last_words = self._last_words, b"\x00"
            return words if len(words) > 1 else b""
        try:
            return self._take(amount)
        except SessionError:
            return b""

    def terminate(self, error_code: int) -> None:
        """End the session with a GOAWAY of that code."""
        self._ending = True
        try:
            self._connection.terminate_connection(error_code)
        except SessionError:
            self._last_words = self._last_words or _goaway(error_code)

    @property
    def over(self) -> bool:
        """Whether nothing more can come of this session, but for what ``take`` still has."""
        return bool(self._last_words) or not self._connection.want_read


def _goaway(error_code: int) -> bytes:
    return struct.pack(">I", 8)[1:] + b"\x07\x00" + struct.pack(">III", 0, 0, error_code)
