"""The links that every call passes, in one order on every transport.

identity → capacity → deadline → rate → decode → authorise → handler → encode → audit, with metrics and a trace around
them. Each link is a short step below; handlers see a typed ``Call`` and raise typed errors. How calls end is in
``outcome``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from google.protobuf.message import DecodeError

from hedgerow.client import ON_BEHALF_OF_KEY
from hedgerow.errors import (
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnimplementedError,
)
from libs.authz import Authorizer, Resource
from libs.authz.bundle import principal_kind
from libs.authz.resource import NO_ATTRIBUTES
from libs.identity.trust import TrustStore
from libs.rpc.call import Call, Caller, TransportCall
from libs.rpc.delegation import DelegationSigner, DelegationVerifier
from libs.rpc.outcome import MAX_TEXT, AuditSink, Outcomes, State, denied, event_of, overloaded, shutting_down
from libs.rpc.rate_limit import RateLimiter
from libs.rpc.service import Audit, Method
from libs.telemetry import CallMetrics, Tracer

TLS_VERSION = "TLSv1.3"
# Longer than any valid name, so what is cut to it stays unknown, and stays small in caches, errors and the audit trail.
MAX_NAME = 256
MAX_NAMED = 64


class Chain:
    """Runs registered methods behind the links. One per server."""

    def __init__(
        self,
        *,
        trust: TrustStore,
        authorizer: Authorizer,
        audit: AuditSink,
        metrics: CallMetrics,
        tracer: Tracer,
        limiter: RateLimiter,
        verifier: DelegationVerifier,
        signer: DelegationSigner,
        max_calls: int = 1024,
        default_deadline: float = 30.0,
    ) -> None:
        self._trust = trust
        self._authorizer = authorizer
        self._audit = audit
        self._metrics = metrics
        self._outcomes = Outcomes(audit, metrics)
        self._tracer = tracer
        self._limiter = limiter
        self._verifier = verifier
        self._signer = signer
        self._max_calls = max_calls
        self._default_deadline = default_deadline
        self._working = 0
        self._callers: dict[tuple[str, str | None], Caller] = {}
        self._watches: set[asyncio.Task[Any]] = set()
        self._idle: asyncio.Event | None = None  # while somebody waits for it
        self.draining = False
        metrics.add_in_flight(lambda: self._working, max_calls)

    def drain(self) -> None:
        """Refuse new calls and end the watches: they have no end of their own, and their callers open them elsewhere.

        Health goes on until the port is closed.
        """
        self.draining = True
        for task in self._watches:
            task.cancel()

    async def wait_idle(self) -> None:
        """Return when no call is in progress, but for those of health."""
        if self._working or self._watches:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    def shed(self) -> None:
        """Count a call that a transport refused for want of room, before it came here."""
        self._metrics.failed(ResourceExhaustedError.default_reason)

    # ---- the four kinds of call, all built from the same links

    async def unary(self, method: Method, raw: bytes, transport: TransportCall) -> bytes:
        """Answer one request with one response."""
        state = self._begin(method, transport)
        try:
            if self._tracer.sampled(state.metadata):
                with self._tracer.span(method.path, state.metadata):
                    return await self._unary(method, raw, transport, state)
            return await self._unary(method, raw, transport, state)
        except BaseException as error:
            raise self._outcomes.failed(method, state, error) from None
        finally:
            self._end(method)

    async def _unary(self, method: Method, raw: bytes, transport: TransportCall, state: State) -> bytes:
        call = self._admit(method, transport, state)
        request = _decode(method, raw)
        await self._authorise(method, request, state)
        self._metrics.started(state.started)
        if state.allowed is not None:
            response = await method.handler(request, call)
        else:
            async with asyncio.timeout(self._default_deadline):
                response = await method.handler(request, call)
        encoded = method.encode(response)
        if method.access.audit is Audit.BUFFERED:
            self._audit.fold(event_of(method, state, "OK"))
        else:
            await self._outcomes.record(method, state, "OK")
        self._metrics.ended(method.path, "OK", time.perf_counter() - state.started)
        return encoded

    async def stream(
        self, method: Method, raws: AsyncIterator[bytes], transport: TransportCall
    ) -> AsyncIterator[bytes]:
        """Answer with a stream, or a stream with an answer: every kind but unary."""
        state = self._begin(method, transport)
        task = asyncio.current_task() if method.is_watch and not method.access.always_open else None
        if task is not None:
            self._watches.add(task)
        try:
            with self._tracer.stream_span(method.path, state.metadata):
                call = self._admit(method, transport, state)
                responses = await self._open(method, raws, state, call)
                # A stream with personal data leaves only after its event is durable, so the event comes first.
                if method.server_streaming:
                    await self._outcomes.record(method, state, "OK")
                    async for response in responses:
                        self._trust.judge_open(state.certificate_pem)
                        yield method.encode(response)
                else:
                    encoded = method.encode(await responses)
                    await self._outcomes.record(method, state, "OK")
                    yield encoded
            self._outcomes.measure(method, state, "OK")
        except GeneratorExit:
            self._outcomes.cut_off(method, state)
            raise
        except BaseException as error:
            if task is not None and self.draining and isinstance(error, asyncio.CancelledError):
                task.uncancel()
                error = shutting_down()
            raise self._outcomes.failed(method, state, error) from None
        finally:
            if task is not None:
                self._watches.discard(task)
            self._end(method)

    async def _open(self, method: Method, raws: AsyncIterator[bytes], state: State, call: Call) -> Any:
        first = _decode(method, await _first(raws))
        await self._authorise(method, first, state)
        self._metrics.started(state.started)
        if not method.client_streaming:
            return method.handler(first, call)
        return method.handler(self._requests(method, first, raws, state), call)

    async def _requests(
        self, method: Method, first: Any, raws: AsyncIterator[bytes], state: State
    ) -> AsyncIterator[Any]:
        """Yield the requests of a stream, each authorised for whatever it names.

        Where each has an answer, each is a use of what it names and is recorded as one.
        """
        yield first
        async for raw in raws:
            self._trust.judge_open(state.certificate_pem)
            request = _decode(method, raw)
            if method.access.resources(request):
                if method.server_streaming:
                    state.resources = ()
                await self._authorise(method, request, state)
                if method.server_streaming:
                    await self._outcomes.record(method, state, "OK")
            yield request

    # ---- the links

    def _begin(self, method: Method, transport: TransportCall) -> State:
        state = State(transport.metadata())
        self._working += method.takes_place
        return state

    def _end(self, method: Method) -> None:
        self._working -= method.takes_place
        if self._idle is not None and not (self._working or self._watches):
            self._idle.set()
            self._idle = None

    def _admit(self, method: Method, transport: TransportCall, state: State) -> Call:
        caller = state.caller = self._identify(transport, state)
        access, clock = method.access, transport.time_left
        if not access.always_open:
            if self.draining:
                raise shutting_down()
            if self._working > self._max_calls:
                raise overloaded(self._max_calls)
            if access.audit is not Audit.NONE:
                # Before any work: a change must not take effect when its event cannot be written.
                self._audit.require_writable()
        allowed = state.allowed = clock()
        if allowed is None:
            if access.deadline_required:
                raise InvalidArgumentError(
                    "this call needs a deadline; set a timeout in the client", reason="DEADLINE_REQUIRED"
                )
            clock = self._clock(transport)
        self._limiter.check(caller.on_behalf_of or caller.principal)
        call = state.call = Call(
            caller, state.purpose, state.request_id, state.metadata, clock, self._signer.token, transport.binary_metadata
        )  # fmt: skip
        return call

    def _clock(self, transport: TransportCall) -> Callable[[], float | None]:
        fallback = time.monotonic() + self._default_deadline

        def left() -> float:
            remaining = transport.time_left()
            return fallback - time.monotonic() if remaining is None else remaining

        return left

    def _identify(self, transport: TransportCall, state: State) -> Caller:
        peer = transport.peer()
        if peer is None:
            raise UnauthenticatedError("a client certificate is required")
        if peer.tls_version != TLS_VERSION:
            raise UnauthenticatedError("TLS 1.3 is required")
        principal = self._trust.judge(peer.certificate_pem).spiffe_id
        state.certificate_pem = peer.certificate_pem
        token = state.metadata.get(ON_BEHALF_OF_KEY)
        behalf = self._verifier.verify(token, peer=principal, purpose=state.purpose) if token else None
        caller = self._callers.get((principal, behalf))
        if caller is None:
            if principal_kind(principal) is None:
                raise UnauthenticatedError("the certificate names neither a user nor a service")
            if len(self._callers) >= 4096:
                self._callers.clear()
            _, _, _, kind, name = principal.split("/", 4)
            caller = self._callers[principal, behalf] = Caller(principal, kind, name, behalf)
        return caller

    async def _authorise(self, method: Method, request: Any, state: State) -> None:
        caller = state.caller
        if caller is None:
            raise AssertionError("the caller is identified before it is authorised")
        access = method.access
        granted = access.granted is not None and await access.granted(request, caller)
        missing: NotFoundError | None = None
        for position, resource in enumerate(access.resources(request)):
            if len(resource.name) > MAX_NAME:
                resource = Resource(resource.kind, resource.name[:MAX_NAME])  # noqa: PLW2901 - from here on the short one
            try:
                attributes = await method.describe(resource)
            except NotFoundError as error:
                attributes = NO_ATTRIBUTES
                if position or not access.creates:
                    missing = missing or error
            if resource.name not in state.resources and len(state.resources) < MAX_NAMED:
                state.resources += (resource.name,)
            for principal in caller.principals:
                decision = self._authorizer.decide(
                    principal,
                    method.action,
                    resource,
                    attributes,
                    purpose=state.purpose,
                    delegated=caller.on_behalf_of is not None,
                    granted=granted,
                )
                state.decision = decision
                if not decision.permitted:
                    raise denied(method, resource.name, state.purpose, decision)
        if state.decision is None:
            raise PermissionDeniedError("the first message of the call names no resource")
        if missing is not None:
            # It had no purposes to hold the call to. Should it be made this moment, no handler must find it unguarded.
            raise missing


async def refuse_unknown(path: str) -> None:
    """Refuse a method that is not registered.

    Raises:
        UnimplementedError: always.
    """
    raise UnimplementedError(f"{path[:MAX_TEXT]} is not a method of this server")


def _decode(method: Method, raw: bytes) -> Any:
    limit = method.access.max_message_bytes
    if len(raw) > limit:
        raise ResourceExhaustedError(
            f"the message has {len(raw)} bytes and this call takes at most {limit}; send less at a time",
            reason="MESSAGE_TOO_LARGE",
        )
    try:
        return method.decode(raw)
    except (DecodeError, UnicodeDecodeError) as error:
        raise InvalidArgumentError(
            "the request is not a message of the expected type", reason="MESSAGE_MALFORMED"
        ) from error


async def _first(raws: AsyncIterator[bytes]) -> bytes:
    async for raw in raws:
        return raw
    raise InvalidArgumentError("the stream ended before its first message", reason="MESSAGE_MALFORMED")


__all__: Sequence[str] = ("MAX_TEXT", "AuditSink", "Chain", "refuse_unknown")
