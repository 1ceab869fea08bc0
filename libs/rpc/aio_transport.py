"""The first transport: ``grpc.aio``."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, NoReturn

import grpc
import grpc.aio

from hedgerow.errors import STATUS_DETAILS_KEY, CallCancelledError, HedgerowError, to_status
from hedgerow.identity import Identity, IdentityFolder
from libs.rpc.call import Peer
from libs.rpc.chain import Chain, refuse_unknown
from libs.rpc.service import Method, Service

HARD_MESSAGE_BYTES = 64 * 1024 * 1024
CONNECTION_AGE_SECONDS = 600
CONNECTION_GRACE_SECONDS = 600
FINISH_SECONDS, FINISH_MESSAGES = 0.5, 64
_UNKNOWN = asyncio.Semaphore(64)

OPTIONS: Sequence[tuple[str, int]] = (
    # Above the limit of each method, so that the chain refuses with a reason; beyond this gRPC itself refuses.
    ("grpc.max_receive_message_length", HARD_MESSAGE_BYTES),
    ("grpc.max_send_message_length", HARD_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.max_concurrent_streams", 1024),
    # Calls wait inside gRPC until the loop takes them up. With its default of 1,000 to 3,000 a server in overload answers
    # only calls whose callers have given up; between these two it refuses more and more of them, at once and for little.
    ("grpc.server.max_pending_requests", 640),
    ("grpc.server.max_pending_requests_hard_limit", 1280),
    # A connection stays on one worker and outlives its certificate: bound its age.
    ("grpc.max_connection_age_ms", CONNECTION_AGE_SECONDS * 1000),
    ("grpc.max_connection_age_grace_ms", CONNECTION_GRACE_SECONDS * 1000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.so_reuseport", 0),
)


class AioCall:
    """A ``grpc.aio`` call as the chain sees it."""

    __slots__ = ("_context", "_metadata")

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._metadata: Mapping[str, str] | None = None

    def peer(self) -> Peer | None:
        """The certificate and TLS version of the connection."""
        auth = self._context.auth_context()
        certificate = auth.get("x509_pem_cert")
        if not certificate:
            return None
        return Peer(certificate[0], auth["ssl_tls_version"][0].decode() if "ssl_tls_version" in auth else "")

    def metadata(self) -> Mapping[str, str]:
        """Textual request metadata."""
        if self._metadata is None:
            pairs = self._context.invocation_metadata() or ()
            self._metadata = {key: value for key, value in pairs if isinstance(value, str)}
        return self._metadata

    def binary_metadata(self) -> Mapping[str, bytes]:
        """Binary request metadata."""
        pairs = self._context.invocation_metadata() or ()
        return {key: value for key, value in pairs if isinstance(value, bytes) and not key.startswith("grpc-")}

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline, or None without one."""
        left: float | None = self._context.time_remaining()
        return left


async def abort(context: grpc.aio.ServicerContext, error: HedgerowError) -> NoReturn:
    """End a call with the wire form of an error."""
    status = to_status(error)
    details = ((STATUS_DETAILS_KEY, status.SerializeToString()),)
    await context.abort(error.code, status.message, trailing_metadata=details)
    raise AssertionError("abort raises")


def unary_handler(chain: Chain, method: Method, call: type[AioCall] = AioCall) -> Callable[..., Awaitable[bytes]]:
    """Return the handler of a unary method, with the kind of call that its port makes."""

    async def handle(raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return await chain.unary(method, raw, call(context))
        except HedgerowError as error:
            await abort(context, error)

    return handle


def _stream(chain: Chain, method: Method) -> Callable[..., AsyncIterator[bytes]]:
    async def handle(raws: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
        requests = raws if method.client_streaming else _single(raws)
        responses = chain.stream(method, requests, AioCall(context))
        try:
            async for response in responses:
                yield response
        except HedgerowError as error:
            if method.client_streaming:
                await _let_finish(raws)
            await abort(context, error)
        finally:
            await responses.aclose()  # type: ignore[attr-defined]

    return handle


def _stream_unary(chain: Chain, method: Method) -> Callable[..., Awaitable[bytes]]:
    async def handle(raws: Any, context: grpc.aio.ServicerContext) -> bytes:
        responses = chain.stream(method, _to_its_end(raws, context), AioCall(context))
        try:
            return b"".join([response async for response in responses])
        except HedgerowError as error:
            await _let_finish(raws)
            await abort(context, error)
        finally:
            await responses.aclose()  # type: ignore[attr-defined]

    return handle


async def _to_its_end(raws: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> AsyncIterator[bytes]:
    """Yield what a caller sends, and end only when the caller has said that this is all.

    ``grpc.aio`` ends the messages of a call that was cancelled, cut off or overtaken by its deadline like those of a
    complete one, and cancels the handler a moment later: a handler that acts at the end would act on a part. What is sent
    now is done only after such a cancellation has arrived, so it tells the two apart.

    Raises:
        CallCancelledError: the call ended early; mostly the handler is cancelled instead.
    """
    async for raw in raws:
        yield raw
    try:
        await context.send_initial_metadata(())
    except grpc.aio.InternalError:
        raise CallCancelledError("the call ended before all of its messages had arrived") from None


async def _let_finish(raws: AsyncIterator[bytes]) -> None:
    """Take what a failed caller is still sending, within bounds.

    A ``grpc.aio`` client whose write meets the end of the call reports INTERNAL in place of the status it was sent
    (grpc/grpc#36066); a short stream that is let finish gets the true one.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(FINISH_SECONDS):
            count = 0
            async for _ in raws:
                count += 1
                if count >= FINISH_MESSAGES:
                    return


async def _single(raw: bytes) -> AsyncIterator[bytes]:
    yield raw


def _handler(chain: Chain, method: Method) -> grpc.RpcMethodHandler:
    if method.client_streaming and method.server_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream(chain, method))
    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(_stream_unary(chain, method))
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_stream(chain, method))
    return grpc.unary_unary_rpc_method_handler(unary_handler(chain, method))


class _Handlers(grpc.GenericRpcHandler):
    """All methods of the server; an unknown one gets a typed refusal."""

    def __init__(self, chain: Chain, services: Sequence[Service]) -> None:
        self._handlers = {m.path: _handler(chain, m) for service in services for m in service.methods}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        handler = self._handlers.get(details.method)
        return handler if handler is not None else unknown_method(details.method)


def unknown_method(path: str) -> grpc.RpcMethodHandler:
    """Return the handler that refuses a method which is not registered."""

    async def handle(raws: Any, context: grpc.aio.ServicerContext) -> None:
        try:
            await refuse_unknown(path)
        except HedgerowError as error:
            # Nobody has looked at who calls, so only a few at once are waited for.
            if not _UNKNOWN.locked():
                async with _UNKNOWN:
                    await _let_finish(raws)
            await abort(context, error)

    return grpc.stream_stream_rpc_method_handler(handle)


def build_server(chain: Chain, services: Sequence[Service], *, shared: bool = False) -> grpc.aio.Server:
    """Return a server with every method behind the chain; add a port, which processes may share, and start it."""
    server = grpc.aio.server(options=tuple({**dict(OPTIONS), "grpc.so_reuseport": int(shared)}.items()))
    server.add_generic_rpc_handlers((_Handlers(chain, services),))
    return server


def rotating_credentials(folder: IdentityFolder, *, client_certificates: bool = True) -> grpc.ServerCredentials:
    """Return credentials that follow the identity folder at each handshake, and require a client certificate by default.

    An unreadable or unmatched identity on disk leaves the last good one in use: raising here would break handshakes.
    """
    first = folder.current()
    if first is None:
        raise FileNotFoundError(f"no usable identity in {folder.folder}")
    served = first

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        identity = folder.current()
        if identity is None or identity is served:
            return None
        served = identity
        return _configuration(identity)

    return grpc.dynamic_ssl_server_credentials(_configuration(first), fetch, client_certificates)


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    pair = (identity.key_pem, identity.chain_pem)
    return grpc.ssl_server_certificate_configuration([pair], root_certificates=identity.roots_pem)
