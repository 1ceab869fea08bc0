"""The links that every call passes, in one order on every transport.

identity → capacity → deadline → rate → decode → authorise → handler → encode → audit, with metrics and a trace around
them. Each link is a short step below; handlers see a typed ``Call`` and raise typed errors. Whatever else goes wrong is
INTERNAL with a fixed text, and the log gets its type and place under the request id.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import DecodeError

from hedgerow.client import ON_BEHALF_OF_KEY, PURPOSE_KEY, REQUEST_ID_KEY
from hedgerow.errors import (
    CallCancelledError,
    DeadlineExceededError,
    HedgerowError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
)
from libs.audit import AuditEvent
from libs.authz import Authorizer, Decision, Resource
from libs.authz.bundle import principal_kind
from libs.authz.resource import NO_ATTRIBUTES
from libs.identity.trust import TrustStore
from libs.rpc.call import Call, Caller, TransportCall
from libs.rpc.delegation import DelegationSigner, DelegationVerifier
from libs.rpc.rate_limit import RateLimiter
from libs.rpc.service import Audit, Method
from libs.telemetry import CallMetrics, Tracer, fault_location, get_logger

TLS_VERSION = "TLSv1.3"
MAX_TEXT = 128
# Longer than any valid name, so what is cut to it stays unknown, and stays small in caches, errors and the audit trail.
MAX_NAME = 256
MAX_NAMED = 64
log = get_logger()


class AuditSink(Protocol):
    """Where audit events go."""

    def require_writable(self) -> None:
        """Raise UnavailableError when an event would not be taken over just now."""

    async def append(self, event: AuditEvent) -> None:
        """Return when the event is on disk; raise UnavailableError when it cannot be."""

    def fold(self, event: AuditEvent) -> None:
        """Take the event over; like events become one with a count. Raise UnavailableError when there is no room."""


@dataclass(slots=True)
class _State:
    """What the links learn of one call."""

    started: float
    request_id: str
    purpose: str
    caller: Caller | None = None
    certificate_pem: bytes = b""
    resources: tuple[str, ...] = ()
    decision: Decision | None = None
    call: Call | None = None
    bounded: bool = False
    """Whether the caller set a deadline, which the transport enforces."""
    working: bool = False
    """Whether it takes one of the places of ``max_calls``."""


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
        self._tracer = tracer
        self._limiter = limiter
        self._verifier = verifier
        self._signer = signer
        self._max_calls = max_calls
        self._default_deadline = default_deadline
        self._in_flight = self._working = 0
        self._callers: dict[tuple[str, str | None], Caller] = {}
        self._watches: set[asyncio.Task[Any]] = set()
        self._idle: asyncio.Event | None = None  # while somebody waits for it
        self.draining = False
        metrics.add_in_flight(lambda: self._working, max_calls)

    def drain(self) -> None:
        """Refuse new calls and end the watches: they have no end of their own, and their callers open them elsewhere."""
        self.draining = True
        for task in self._watches:
            task.cancel()

    async def wait_idle(self) -> None:
        """Return when no call is in progress."""
        if self._in_flight:
            self._idle = self._idle or asyncio.Event()
            await self._idle.wait()

    # ---- the four kinds of call, all built from the same links

    async def unary(self, method: Method, raw: bytes, transport: TransportCall) -> bytes:
        """Answer one request with one response."""
        state = self._begin(transport)
        try:
            if self._tracer.sampled(transport.metadata()):
                with self._tracer.span(method.path, transport.metadata()):
                    return await self._unary(method, raw, transport, state)
            return await self._unary(method, raw, transport, state)
        except BaseException as error:
            raise await self._failed(method, state, error) from None
        finally:
            self._end(state)

    async def _unary(self, method: Method, raw: bytes, transport: TransportCall, state: _State) -> bytes:
        call = self._admit(method, transport, state)
        request = _decode(method, raw)
        await self._authorise(method, request, state)
        self._metrics.started(state.started)
        if state.bounded:
            response = await method.handler(request, call)
        else:
            async with asyncio.timeout(self._default_deadline):
                response = await method.handler(request, call)
        encoded = method.encode(response)
        if method.access.audit is Audit.BUFFERED:
            self._audit.fold(_event(method, state, "OK"))
        else:
            await self._record(method, state, "OK")
        self._measure(method, state, "OK")
        return encoded

    async def stream(
        self, method: Method, raws: AsyncIterator[bytes], transport: TransportCall
    ) -> AsyncIterator[bytes]:
        """Answer with a stream, or a stream with an answer: every kind but unary."""
        state = self._begin(transport)
        task = asyncio.current_task() if method.is_watch else None
        if task is not None:
            self._watches.add(task)
        try:
            with self._tracer.stream_span(method.path, transport.metadata()):
                call = self._admit(method, transport, state)
                responses = await self._open(method, raws, state, call)
                # A stream with personal data leaves only after its event is durable, so the event comes first.
                if method.server_streaming:
                    await self._record(method, state, "OK")
                    async for response in responses:
                        self._trust.judge_open(state.certificate_pem)
                        yield method.encode(response)
                else:
                    encoded = method.encode(await responses)
                    await self._record(method, state, "OK")
                    yield encoded
            self._measure(method, state, "OK")
        except GeneratorExit:
            self._measure(method, state, "CANCELLED")
            raise
        except BaseException as error:
            if task is not None and self.draining and isinstance(error, asyncio.CancelledError):
                task.uncancel()
                error = _shutting_down()
            raise await self._failed(method, state, error) from None
        finally:
            if task is not None:
                self._watches.discard(task)
            self._end(state)

    async def _open(self, method: Method, raws: AsyncIterator[bytes], state: _State, call: Call) -> Any:
        first = _decode(method, await _first(raws))
        await self._authorise(method, first, state)
        self._metrics.started(state.started)
        if not method.client_streaming:
            return method.handler(first, call)
        return method.handler(self._requests(method, first, raws, state), call)

    async def _requests(
        self, method: Method, first: Any, raws: AsyncIterator[bytes], state: _State
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
                    await self._record(method, state, "OK")
            yield request

    # ---- the links

    def _begin(self, transport: TransportCall) -> _State:
        metadata = transport.metadata()
        self._in_flight += 1
        request_id = metadata.get(REQUEST_ID_KEY, "")[:MAX_TEXT] or os.urandom(16).hex()
        return _State(time.perf_counter(), request_id, metadata.get(PURPOSE_KEY, "")[:MAX_TEXT])

    def _end(self, state: _State) -> None:
        self._in_flight -= 1
        self._working -= state.working
        if self._idle is not None and not self._in_flight:
            self._idle.set()
            self._idle = None

    def _admit(self, method: Method, transport: TransportCall, state: _State) -> Call:
        caller = state.caller = self._identify(transport, state)
        access, clock = method.access, transport.time_left
        if access.audit is not Audit.NONE:
            # Health and watches of state stay open to the last, so that probes tell the truth under load and in drain.
            if self.draining:
                raise _shutting_down()
            self._check_capacity(state)
            # Before any work: a change must not take effect when its event cannot be written.
            self._audit.require_writable()
        state.bounded = clock() is not None
        if access.deadline_required and not state.bounded:
            raise InvalidArgumentError(
                "this call needs a deadline; set a timeout in the client", reason="DEADLINE_REQUIRED"
            )
        self._limiter.check(caller.on_behalf_of or caller.principal)
        if not state.bounded:
            clock = self._clock(transport)
        call = state.call = Call(
            caller, state.purpose, state.request_id, transport.metadata(), clock, self._signer.token,
            binary_metadata=transport.binary_metadata,
        )  # fmt: skip
        return call

    def _check_capacity(self, state: _State) -> None:
        # Watches of health, one for each client, stay for hours and cost nothing: they take no place.
        if self._working >= self._max_calls:
            raise ResourceExhaustedError(
                f"{self._max_calls} calls are in progress; try again shortly", reason="OVERLOADED", retry_after=0.1
            )
        self._working += 1
        state.working = True

    def _clock(self, transport: TransportCall) -> Callable[[], float | None]:
        fallback = time.monotonic() + self._default_deadline

        def left() -> float:
            remaining = transport.time_left()
            return fallback - time.monotonic() if remaining is None else remaining

        return left

    def _identify(self, transport: TransportCall, state: _State) -> Caller:
        peer = transport.peer()
        if peer is None:
            raise UnauthenticatedError("a client certificate is required")
        if peer.tls_version != TLS_VERSION:
            raise UnauthenticatedError("TLS 1.3 is required")
        principal = self._trust.judge(peer.certificate_pem).spiffe_id
        state.certificate_pem = peer.certificate_pem
        token = transport.metadata().get(ON_BEHALF_OF_KEY)
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

    async def _authorise(self, method: Method, request: Any, state: _State) -> None:
        caller = state.caller
        if caller is None:
            raise AssertionError("the caller is identified before it is authorised")
        access = method.access
        granted = bool(access.granted) and await access.granted(request, caller)  # type: ignore[misc]
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
                    raise _denied(method, resource.name, state.purpose, decision)
        if state.decision is None:
            raise PermissionDeniedError("the first message of the call names no resource")
        if missing is not None:
            # It had no purposes to hold the call to. Should it be made this moment, no handler must find it unguarded.
            raise missing

    # ---- how a call ends

    def _measure(self, method: Method, state: _State, code: str) -> None:
        self._metrics.ended(method.path, code, time.perf_counter() - state.started)

    async def _record(self, method: Method, state: _State, code: str) -> None:
        mode = method.access.audit
        if mode is Audit.DURABLE:
            await self._audit.append(_event(method, state, code))
        elif mode is Audit.BUFFERED:
            self._audit.fold(_event(method, state, code))

    async def _failed(self, method: Method, state: _State, error: BaseException) -> BaseException:
        """Record a call that failed and return what the transport is to report."""
        if isinstance(error, asyncio.CancelledError):
            self._measure(method, state, "CANCELLED")
            self._note(method, state, "CANCELLED")
            return error
        if not isinstance(error, Exception):
            return error
        failure = self._translate(error, state, method)
        self._measure(method, state, failure.code_name)
        self._metrics.failed(failure.reason)
        self._note(method, state, failure.code_name)
        return failure

    def _note(self, method: Method, state: _State, code: str) -> None:
        """Audit a failure without making the caller wait; it gets no data, so nothing leaves unaudited."""
        if method.access.audit is Audit.NONE and code not in ("PERMISSION_DENIED", "UNAUTHENTICATED"):
            return
        try:
            # Folded, so that a flood of like refusals stays one event a second.
            self._audit.fold(_event(method, state, code))
        except UnavailableError:
            log.error("audit_unavailable", action=method.action, request_id=state.request_id)

    def _translate(self, error: Exception, state: _State, method: Method) -> HedgerowError:
        if isinstance(error, HedgerowError):
            return error
        if isinstance(error, TimeoutError):
            return DeadlineExceededError("the call ran past its deadline and was stopped")
        log.error(
            "call_failed",
            action=method.action,
            request_id=state.request_id,
            error=type(error).__name__,
            where=fault_location(error),
        )
        return InternalError(
            "the server failed; give its operator the request id", metadata={"request_id": state.request_id}
        )


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


def _shutting_down() -> UnavailableError:
    return UnavailableError("the server is shutting down; try another replica", reason="NOT_SERVING")


def _denied(method: Method, resource: str, purpose: str, decision: Decision) -> PermissionDeniedError:
    metadata = {"action": method.action, "resource": resource}
    if decision.about_purpose:
        stated = f"the purpose {purpose!r} is not among those" if purpose else "no purpose is stated; state one"
        return PermissionDeniedError(
            f"{stated} that both {resource} and the caller allow",
            reason="PURPOSE_NOT_PERMITTED",
            metadata=metadata | {"purpose": purpose},
        )
    return PermissionDeniedError(f"no policy permits {method.action} on {resource}", metadata=metadata)


def _event(method: Method, state: _State, code: str) -> AuditEvent:
    caller, decision = state.caller, state.decision
    denied = code in ("PERMISSION_DENIED", "UNAUTHENTICATED")
    return AuditEvent(
        caller.principal if caller else "",
        (caller.on_behalf_of or "") if caller else "",
        method.action,
        state.resources,
        state.purpose,
        "deny" if denied else "permit",
        decision.policies if decision else (),
        code,
        state.request_id,
        time.time_ns(),
        1,
        state.call.audit_detail if state.call else {},
    )


__all__: Sequence[str] = ("AuditSink", "CallCancelledError", "Chain", "refuse_unknown")
