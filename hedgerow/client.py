"""Calls to one service: deadlines always, typed errors, retries where they are safe, trace and request ids passed on."""

from __future__ import annotations

import asyncio
import random
import time
import uuid
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from opentelemetry import propagate

from hedgerow.channel import RotatingChannel, pinned_channel
from hedgerow.errors import HedgerowError, UnavailableError, from_rpc_error
from hedgerow.identity import Identity, new_key_and_csr
from hedgerow.retry import RetryBudget, is_safe

PURPOSE_KEY = "hedgerow-purpose"
ON_BEHALF_OF_KEY = "hedgerow-on-behalf-of"
REQUEST_ID_KEY = "hedgerow-request-id"
DEFAULT_TIMEOUT = 30.0
RETRY_ATTEMPTS = 4
_WRITE_FAILED = "Internal error from Core"


def metadata(purpose: str, on_behalf_of: str, request_id: str) -> list[tuple[str, str]]:
    """Return the metadata of a call."""
    entries = [(REQUEST_ID_KEY, request_id or uuid.uuid4().hex)]
    if purpose:
        entries.append((PURPOSE_KEY, purpose))
    if on_behalf_of:
        entries.append((ON_BEHALF_OF_KEY, on_behalf_of))
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    entries.extend(carrier.items())
    return entries


class ServiceClient:
    """A client of one gRPC service, driven by its descriptor.

    All methods raise the typed errors of ``hedgerow.errors``. Clients of one server may share a retry budget.
    """

    def __init__(self, channel: RotatingChannel, service: ServiceDescriptor, budget: RetryBudget | None = None) -> None:
        self._channel = channel
        self._service = service
        self._budget = budget or RetryBudget()
        self._safe = {method.name for method in service.methods if is_safe(method)}
        self._methods: dict[str, tuple[str, Any, Any]] = {
            method.name: _codec(service, method) for method in service.methods
        }

    def _failure(self, error: grpc.aio.AioRpcError) -> HedgerowError:
        return from_rpc_error(error, self._service.full_name)

    async def call(
        self,
        method: str,
        request: Any,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        purpose: str = "",
        on_behalf_of: str = "",
        request_id: str = "",
    ) -> Any:
        """Make a unary call.

        What the contract marks as safe is tried again on UNAVAILABLE while the deadline and the retry budget allow; so
        is a request that carries its own ``request_id`` field, because the server carries such a request out once.

        Args:
            method: RPC name, such as ``GetDataset``.
            request: the request message.
            timeout: seconds until the deadline, over all attempts.
            purpose: why the data is wanted.
            on_behalf_of: token of the principal this call is made for.
            request_id: to find the call in logs and the audit trail; made up when empty.
        """
        path, serializer, deserializer = self._methods[method]
        safe = method in self._safe or bool(getattr(request, "request_id", ""))
        deadline = time.monotonic() + timeout
        entries = metadata(purpose, on_behalf_of, request_id)
        attempts = RETRY_ATTEMPTS if safe else 1
        for left in range(attempts - 1, -1, -1):
            try:
                bound = self._channel.method("unary_unary", path, serializer, deserializer)
                answer = await bound(request, timeout=_until(deadline), metadata=entries)
            except grpc.aio.AioRpcError as error:
                pause = self._pause(self._failure(error), left, deadline)
            else:
                self._budget.succeeded()
                return answer
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _pause(self, failure: HedgerowError, left: int, deadline: float) -> float:
        """Return the seconds until the next of the attempts that are left; raise the failure where there is to be none."""
        if not isinstance(failure, UnavailableError):
            raise failure from None
        backoff = 0.1 * 2 ** (RETRY_ATTEMPTS - 1 - left) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
        pause: float = max(backoff, failure.retry_after or 0.0)
        affordable = self._budget.failed()
        if not left or not affordable or _until(deadline) <= pause:
            raise failure from None
        return pause

    async def stream(
        self,
        method: str,
        request: Any,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        purpose: str = "",
        on_behalf_of: str = "",
        request_id: str = "",
    ) -> AsyncIterator[Any]:
        """Make a call that answers with a stream; leaving the loop early cancels it."""
        path, serializer, deserializer = self._methods[method]
        bound = self._channel.method("unary_stream", path, serializer, deserializer)
        call = bound(request, timeout=timeout, metadata=metadata(purpose, on_behalf_of, request_id))
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise self._failure(error) from None
        finally:
            call.cancel()

    async def send(
        self,
        method: str,
        requests: AsyncIterable[Any],
        *,
        timeout: float = DEFAULT_TIMEOUT,
        purpose: str = "",
        on_behalf_of: str = "",
        request_id: str = "",
    ) -> Any:
        """Make a call that sends a stream and gets one answer."""
        path, serializer, deserializer = self._methods[method]
        bound = self._channel.method("stream_unary", path, serializer, deserializer)
        call = bound(requests, timeout=timeout, metadata=metadata(purpose, on_behalf_of, request_id))
        end = CallEnd(call)
        try:
            return await call
        except grpc.aio.AioRpcError as error:
            raise self._failure(end.of(error)) from None

    async def send_again(
        self, method: str, requests: Callable[[], AsyncIterable[Any]], *, timeout: float, purpose: str = ""
    ) -> Any:
        """Send a stream until it is answered: what ``requests`` makes is sent, and on UNAVAILABLE made and sent anew.

        Only for streams that the server carries out once, because they carry a ``request_id``. The deadline is over all
        attempts, which the retry budget bounds as it does those of ``call``.
        """
        deadline = time.monotonic() + timeout
        request_id = uuid.uuid4().hex
        for left in range(RETRY_ATTEMPTS - 1, -1, -1):
            try:
                answer = await self.send(
                    method, requests(), timeout=_until(deadline), purpose=purpose, request_id=request_id
                )
            except HedgerowError as failure:
                pause = self._pause(failure, left, deadline)
            else:
                self._budget.succeeded()
                return answer
            await asyncio.sleep(pause)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def watch(
        self, method: str, request: Any, *, timeout: float, done: Sequence[int] = (), **context: str
    ) -> AsyncIterator[Any]:
        """Stream a resource's states, opening the stream again when the server goes away.

        A ``Watch…`` RPC gives the current state first, so nothing is missed. Ends with the stream, or with a message
        whose ``state`` is in ``done``.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                async for message in self.stream(method, request, timeout=_until(deadline), **context):
                    yield message
                    if done and message.state in done:
                        return
                return
            except UnavailableError:
                if time.monotonic() + 0.5 >= deadline:
                    raise
                await asyncio.sleep(0.5)


def _until(deadline: float) -> float:
    """Return the seconds until a deadline, as a timeout that gRPC takes."""
    return max(deadline - time.monotonic(), 0.001)


class CallEnd:
    """The status that a call which sends a stream was ended with.

    A write of ``grpc.aio`` that meets the end of its call puts INTERNAL in place of the status that the call was sent, or
    is put in its place a moment later (grpc/grpc#36066): of the first and the last status, the other is the true one.
    """

    def __init__(self, call: Any) -> None:
        """Listen to a call that has just begun."""
        self._first: grpc.aio.AioRpcError | None = None
        call.add_done_callback(self._ended)

    def _ended(self, call: Any) -> None:
        code, details = _at_once(call.code()), _at_once(call.details())
        self._first = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), _at_once(call.trailing_metadata()), details)

    def of(self, last: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
        """Return what the call that raised this was sent."""
        is_of_the_write = last.code() is grpc.StatusCode.INTERNAL and last.details() == _WRITE_FAILED
        return self._first if is_of_the_write and self._first is not None else last


def _at_once(coroutine: Any) -> Any:
    """Return what a coroutine does that has nothing to wait for, before anything else can happen."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    coroutine.close()
    raise AssertionError("a call that has ended has a status")


def _codec(service: ServiceDescriptor, method: MethodDescriptor) -> tuple[str, Any, Any]:
    request = message_factory.GetMessageClass(method.input_type)
    response = message_factory.GetMessageClass(method.output_type)
    return f"/{service.full_name}/{method.name}", request.SerializeToString, response.FromString


async def enrol(
    target: str,
    server_name: str,
    pinned_roots_pem: bytes,
    method: MethodDescriptor,
    *,
    timeout: float = 15.0,
    **fields: str,
) -> Identity:
    """Exchange a credential for a certificate on the enrolment port and return the identity.

    Args:
        target: ``host:port`` of the enrolment port.
        server_name: name the certificate of the port must have.
        pinned_roots_pem: the CA to trust there and nowhere else.
        method: descriptor of ``EnrolmentService.Enroll`` or ``.Login``.
        timeout: seconds until the deadline.
        fields: the credential: ``token``, or ``username`` and ``password``.

    Raises:
        HedgerowError: as the RPC states.
    """
    key_pem, csr_pem = new_key_and_csr()
    path, serializer, deserializer = _codec(method.containing_service, method)
    request = message_factory.GetMessageClass(method.input_type)(csr_pem=csr_pem, **fields)
    async with pinned_channel(target, server_name, pinned_roots_pem) as channel:
        bound = channel.unary_unary(path, request_serializer=serializer, response_deserializer=deserializer)
        try:
            answer = await bound(request, timeout=timeout, metadata=metadata("", "", ""), wait_for_ready=True)
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(error, method.containing_service.full_name) from None
    return Identity(key_pem, answer.chain_pem.encode(), answer.roots_pem.encode())


async def renew(client: ServiceClient, make_request: Any, *, timeout: float = 15.0) -> Identity:
    """Return a new identity with a new key, on the strength of the client's current certificate.

    ``make_request`` is the class ``RenewCertificateRequest``.
    """
    key_pem, csr_pem = new_key_and_csr()
    answer = await client.call("RenewCertificate", make_request(csr_pem=csr_pem), timeout=timeout)
    return Identity(key_pem, answer.chain_pem.encode(), answer.roots_pem.encode())


__all__ = ["HedgerowError", "RetryBudget", "ServiceClient", "enrol", "metadata", "renew"]
