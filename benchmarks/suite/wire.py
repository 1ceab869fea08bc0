"""Unary calls over mutual TLS at a fraction of what they cost a ``grpc.aio`` client.

The generator shares its machine with the suite. Where it offers thousands of calls a second, one on ``grpc.aio`` would take
a third of the processors, and more of them the more it offers, so that the suite had less of them beyond saturation than at
it. This one is made of libnghttp2 and OpenSSL, like the lane.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
import struct
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import grpc
import grpc.aio
from ngh2 import Configuration, Connection, Role, events
from ngh2.enums import Setting
from ngh2.exceptions import NGH2Error

from hedgerow.errors import STATUS_DETAILS_KEY
from hedgerow.identity import IdentityFolder

WINDOW = 16 * 1024 * 1024
PREFIX = 5
# Beyond the deadline, which the server keeps: a call must end here even if the server has forgotten it.
GRACE_SECONDS = 2.0
_CODES = {code.value[0]: code for code in grpc.StatusCode}

Header = tuple[bytes, bytes]


@dataclass(slots=True)
class _Answer:
    done: asyncio.Future[bytes]
    body: bytearray = field(default_factory=bytearray)
    fields: dict[bytes, bytes] = field(default_factory=dict)


class Wire(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self._session = Connection(Role.CLIENT, Configuration())
        self._answers: dict[int, _Answer] = {}
        self._loop = asyncio.get_running_loop()
        self._is_scheduled = False
        self._is_full = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast(asyncio.Transport, transport)
        self._session.initiate_connection({Setting.INITIAL_WINDOW_SIZE: WINDOW})
        self._session.set_local_window_size(WINDOW)
        self._flush()

    def call(self, headers: list[Header], message: bytes) -> asyncio.Future[bytes]:
        """Send a request; its answer is a message, or the error of its status."""
        stream = self._session.send_request(headers)
        self._session.send_data(stream, struct.pack(">BI", 0, len(message)) + message, end_stream=True)
        answer = self._answers[stream] = _Answer(self._loop.create_future())
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)
        return answer.done

    def data_received(self, data: bytes) -> None:
        """Take answers."""
        try:
            self._session.receive_data(data)
        except NGH2Error:  # the server has ended it
            self._transport.abort()
            return
        for event in self._session.events():
            if isinstance(event, events.DataReceived):
                self._answers[event.stream_id].body += event.data
            elif isinstance(event, events.ResponseReceived | events.TrailersReceived):
                self._answers[event.stream_id].fields.update(event.headers)
            elif isinstance(event, events.StreamClosed):
                _end(self._answers.pop(event.stream_id))
        self._flush()

    def _flush(self) -> None:
        self._is_scheduled = False
        while not self._is_full and (data := self._session.data_to_send(256 * 1024)):
            self._transport.write(data)

    def pause_writing(self) -> None:
        """Wait."""
        self._is_full = True

    def resume_writing(self) -> None:
        """Go on."""
        self._is_full = False
        self._flush()

    def connection_lost(self, error: Exception | None) -> None:
        """End what is open."""
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            if not answer.done.done():
                answer.done.set_exception(_error(grpc.StatusCode.UNAVAILABLE))

    def close(self) -> None:
        """Close at once."""
        self._transport.abort()


def _end(answer: _Answer) -> None:
    if answer.done.done():
        return  # nobody waits for it any more
    code = _CODES[int(answer.fields.get(b"grpc-status", b"2"))]
    if code is grpc.StatusCode.OK:
        answer.done.set_result(bytes(answer.body[PREFIX:]))
        return
    answer.done.set_exception(_error(code, answer.fields.get(STATUS_DETAILS_KEY.encode(), b"")))


class WireChannel:
    """A channel as ``ServiceClient`` needs it, for unary calls to the one address that it is given."""

    def __init__(self, address: str, server_name: str, folder: IdentityFolder) -> None:
        self._address = address
        self._server_name = server_name
        self._folder = folder
        self._wire: Wire | None = None
        self._opening = asyncio.Lock()

    async def _open(self) -> Wire:
        async with self._opening:
            if self._wire is None:
                context = ssl.create_default_context(cafile=str(self._folder.folder / "roots.pem"))
                context.set_alpn_protocols(["h2"])
                context.load_cert_chain(self._folder.folder / "identity.pem")
                host, _, port = self._address.rpartition(":")
                loop = asyncio.get_running_loop()
                _, self._wire = await loop.create_connection(
                    Wire, host, int(port), ssl=context, server_hostname=self._server_name
                )
        return self._wire

    def method(
        self, kind: str, path: str, serializer: Callable[[Any], bytes], deserializer: Callable[[bytes], Any]
    ) -> Callable[..., Awaitable[Any]]:
        """Return what makes a call; it raises what ``grpc.aio`` would."""
        if kind != "unary_unary":
            raise ValueError(f"{path} is no unary call")
        fixed: list[Header] = [
            (b":method", b"POST"), (b":scheme", b"https"), (b":path", path.encode()),
            (b":authority", self._server_name.encode()), (b"content-type", b"application/grpc"), (b"te", b"trailers"),
        ]  # fmt: skip

        async def call(request: Any, *, timeout: float, metadata: Sequence[tuple[str, str]]) -> Any:
            wire = self._wire or await self._open()
            entries = [(key.encode(), value.encode()) for key, value in metadata]
            headers = [*fixed, (b"grpc-timeout", b"%dm" % max(1, timeout * 1e3)), *entries]
            try:
                async with asyncio.timeout(timeout + GRACE_SECONDS):
                    return deserializer(await wire.call(headers, serializer(request)))
            except TimeoutError:
                raise _error(grpc.StatusCode.DEADLINE_EXCEEDED) from None

        return call

    async def close(self) -> None:
        """Close at once."""
        if self._wire is not None:
            self._wire.close()


def _error(code: grpc.StatusCode, details: bytes = b"") -> grpc.aio.AioRpcError:
    trailing = [(STATUS_DETAILS_KEY, base64.b64decode(details + b"=" * (-len(details) % 4)))] if details else []
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(*trailing), code.name)
