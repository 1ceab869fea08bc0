"""TLS 1.3 under a connection: handshakes in threads of their own, records on the loop.

A handshake costs as much as dozens of calls, and OpenSSL lets other threads run meanwhile, so a storm of handshakes does
not stall what is being served: there is one such thread, and the system runs it after the loop where both want to. The
thread and the loop never use a session at the same time: while a step of the
handshake runs, the socket is not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, cast

from hedgerow.identity import Identity, IdentityFolder
from libs.rpc.call import Peer
from libs.rpc.lane.connection import Connection
from libs.telemetry import get_logger

if TYPE_CHECKING:
    from libs.rpc.lane.port import LanePort

ALPN = "h2"
THREADS = 1
NICE = 10
RECORD = 16 * 1024
# A hello and a certificate chain take a few kilobytes in two or three pieces; the first requests may come right behind
# them, and one read of the socket takes up to 256 KiB.
HANDSHAKE_BYTES, HANDSHAKE_STEPS = 512 * 1024, 16
WRITE_BUFFER = 1024 * 1024
log = get_logger()


def step_back() -> None:
    """Let the thread that calls this run after those that serve."""
    # A system that refuses to lower a priority still shakes hands, with less care for its callers.
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Certificates:
    """The TLS context of the newest usable identity; a change reaches the next handshake.

    An unreadable or unmatched identity on disk leaves the last good one in use. With a new context its session tickets
    go too, so a session cannot be resumed past a change of roots.
    """

    def __init__(self, folder: IdentityFolder) -> None:
        """Load the first.

        Raises:
            FileNotFoundError: there is none that can be used.
        """
        self._folder = folder
        self._lock = threading.Lock()
        identity = folder.current()
        if identity is None:
            raise FileNotFoundError(f"no usable identity in {folder.folder}")
        self._served = identity
        self._context = self._load(identity)

    def context(self) -> ssl.SSLContext:
        """Return the context for a handshake that begins now; called in the threads of handshakes."""
        with self._lock:
            identity = self._folder.current()
            if identity is not None and identity is not self._served:
                try:
                    self._context = self._load(identity)
                    self._served = identity
                except ssl.SSLError:
                    # It was replaced while it was read: the next handshake sees the whole of it.
                    log.warning("identity_not_loaded")
            return self._context

    def _load(self, identity: Identity) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=identity.roots_pem.decode("ascii"))
        context.load_cert_chain(self._folder.folder / "identity.pem")
        context.set_alpn_protocols([ALPN])
        return context


class SecureWire(asyncio.BufferedProtocol):
    """One TCP connection; becomes the wire of a ``Connection`` when the peer has shown its certificate."""

    def __init__(self, port: LanePort, certificates: Certificates, pool: ThreadPoolExecutor) -> None:
        self._port = port
        self._certificates = certificates
        self._pool = pool
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl: ssl.SSLObject | None = None
        self._transport: asyncio.Transport
        self._connection: Connection | None = None
        self._step: asyncio.Future[Peer | None] | None = None
        self._closed = False
        self._arrived = self._steps = 0

    # ---- what the transport says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the hello."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._port.admit(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Say where the next bytes of the peer go: one place for all wires, as they are taken from there at once."""
        return self._port.inbox

    def buffer_updated(self, size: int) -> None:
        """Take bytes of the peer: of its handshake, then records."""
        if self._closed:
            return
        self._incoming.write(self._port.inbox[:size])
        if self._connection is not None:
            self._read(self._connection)
            return
        self._arrived += size
        self._steps += 1
        if self._arrived > HANDSHAKE_BYTES or self._steps > HANDSHAKE_STEPS:
            self.abort()
            return
        self._transport.pause_reading()
        self._step = self._port.lane.loop.run_in_executor(self._pool, self._handshake)
        self._step.add_done_callback(self._stepped)

    def pause_writing(self) -> None:
        """Stop answering and reading until the peer has read."""
        if self._connection is not None:
            self._transport.pause_reading()
            self._connection.pause()

    def resume_writing(self) -> None:
        """Go on."""
        if self._connection is not None and not self._closed:
            self._transport.resume_reading()
            self._connection.resume()

    def connection_lost(self, error: Exception | None) -> None:
        """End everything."""
        self._give_up()
        self._port.forget(self)
        if self._connection is not None:
            self._connection.lost()

    # ---- the handshake

    def _handshake(self) -> Peer | None:
        """Take one step, in a thread; return the peer when it was the last.

        Raises:
            ssl.SSLError: the peer is refused.
        """
        if self._ssl is None:
            self._ssl = self._certificates.context().wrap_bio(self._incoming, self._outgoing, server_side=True)
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            return None
        certificate = self._ssl.getpeercert(binary_form=True)
        if certificate is None or self._ssl.selected_alpn_protocol() != ALPN:
            raise ssl.SSLError("the peer has no certificate or does not speak h2")
        return Peer(ssl.DER_cert_to_PEM_cert(certificate).encode("ascii"), self._ssl.version() or "")

    def _stepped(self, step: asyncio.Future[Peer | None]) -> None:
        if step.cancelled():
            return
        error = step.exception()  # asked for in any case: else asyncio logs it
        if self._closed:
            return
        if alert_or_answer := self._outgoing.read():
            self._transport.write(alert_or_answer)
        if error is not None:
            log.info("handshake_refused", reason=type(error).__name__)
            self._end()
            return
        peer = step.result()
        if peer is not None:
            if not self._port.accept(self):
                self.abort()
                return
            self._connection = Connection(self._port.lane, peer, self)
            self._read(self._connection)
        self._transport.resume_reading()

    def _read(self, connection: Connection) -> None:
        """Pass on what the records hold that have come, together: a large message has many."""
        session, incoming, room = self._ssl, self._incoming, self._port.room
        assert session is not None
        read_into = cast("Callable[[int, memoryview], int]", session.read)  # with a buffer it returns a number
        try:
            while incoming.pending or session.pending():
                size = read_into(len(room), room)
                if not size:
                    self._end()  # the peer has said good-bye
                    return
                try:
                    while incoming.pending and size + RECORD <= len(room):
                        more = read_into(RECORD, room[size:])
                        if not more:
                            break
                        size += more
                finally:
                    connection.receive(room[:size])
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError:
            self.abort()

    # ---- what the connection says

    def write(self, data: bytes) -> None:
        """Encrypt and send."""
        session = self._ssl
        if self._closed or session is None:
            return
        try:
            sent = session.write(data)
            if sent < len(data):
                rest = memoryview(data)[sent:]
                while rest:
                    rest = rest[session.write(rest) :]
        except ssl.SSLError:
            self.abort()
            return
        self._transport.write(self._outgoing.read())

    def close(self) -> None:
        """Say good-bye and close when everything has left."""
        if self._closed:
            return
        if self._ssl is not None and self._connection is not None:
            with contextlib.suppress(ssl.SSLError):  # it waits for the good-bye of the peer, which we do not
                self._ssl.unwrap()
            if last := self._outgoing.read():
                self._transport.write(last)
        self._end()

    def _end(self) -> None:
        self._closed = True
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._give_up()
        self._transport.abort()

    def _give_up(self) -> None:
        self._closed = True
        if self._step is not None:
            self._step.cancel()  # a handshake that still waits for its turn need not have one
