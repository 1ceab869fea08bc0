"""What a lane gives its peers at most. Every queue, rate and wait of the lane is bounded by a value here."""

from __future__ import annotations

from dataclasses import dataclass

KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one port; sizes in bytes, times in seconds.

    Attributes:
        connections: open at once, those in their handshake not counted.
        handshakes: open at once; when one more comes, the oldest goes.
        handshake_seconds: from the TCP connection to the end of the TLS handshake.
        preface_seconds: from there to the first SETTINGS.
        streams: calls open at once on one connection.
        header_list: told to peers; a header list of twice that ends its connection.
        headers: fields of one header list.
        stream_window: what a peer may send on one stream beyond what its handler took.
        connection_window: the same for a connection; 64 callers that stall do not stall a 65th.
        answers: encoded answers that wait on one connection before its new calls are refused.
        stream_answers: what a handler's stream may have waiting before the handler waits.
        held: request bytes in memory, over all connections, before calls are refused.
        held_each: the same of one connection.
        request_seconds: for the request of a call that states no deadline.
        resets: cancelled streams of one connection: at once, and a second.
        glitches: frames of one connection that are wrong or of no use: at once, and a second.
        idle_frames: PING, SETTINGS and the like of one connection: at once, and a second.
        keepalive_seconds: of silence before a PING.
        keepalive_timeout: for its answer.
        stalled_seconds: that a peer may leave answers unread.
        idle_seconds: without a call before GOAWAY.
        age_seconds: of a connection before GOAWAY, give or take a tenth.
        age_grace: for the calls in progress after that.
    """

    connections: int = 1000
    handshakes: int = 256
    handshake_seconds: float = 10.0
    preface_seconds: float = 10.0
    streams: int = 256
    header_list: int = 16 * KIB
    headers: int = 100
    stream_window: int = 256 * KIB
    connection_window: int = 16 * MIB
    answers: int = 16 * MIB
    stream_answers: int = 64 * KIB
    held: int = 256 * MIB
    held_each: int = 64 * MIB
    request_seconds: float = 30.0
    resets: tuple[int, int] = (1000, 250)
    glitches: tuple[int, int] = (2000, 250)
    idle_frames: tuple[int, int] = (1000, 100)
    keepalive_seconds: float = 60.0
    keepalive_timeout: float = 20.0
    stalled_seconds: float = 60.0
    idle_seconds: float = 900.0
    age_seconds: float = 600.0
    age_grace: float = 600.0
