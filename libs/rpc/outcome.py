"""How calls end: what is counted, what is audited, and what the caller is told, whatever went wrong.

Handlers raise typed errors, and so do the links. Whatever else goes wrong is INTERNAL with a fixed text, and the log gets
its type and place under the request id.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from typing import Protocol

from hedgerow.client import PURPOSE_KEY, REQUEST_ID_KEY
from hedgerow.errors import (
    CallCancelledError,
    DeadlineExceededError,
    HedgerowError,
    InternalError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnavailableError,
)
from libs.audit import AuditEvent
from libs.authz import Decision
from libs.rpc.call import Call, Caller
from libs.rpc.service import Audit, Method
from libs.telemetry import CallMetrics, fault_location, get_logger

MAX_TEXT = 128
# How much earlier than here a deadline comes there: a caller's clock begins before its call is read here, which a busy
# server does late, and gRPC rounds what it sends up.
EARLY_SECONDS, EARLY_SHARE = 0.02, 0.05
_DENIED = ("PERMISSION_DENIED", "UNAUTHENTICATED")
log = get_logger()


class AuditSink(Protocol):
    """Where audit events go."""

    def require_writable(self) -> None:
        """Raise UnavailableError when an event would not be taken over just now."""

    async def append(self, event: AuditEvent) -> None:
        """Return when the event is on disk; raise UnavailableError when it cannot be."""

    def fold(self, event: AuditEvent) -> None:
        """Take the event over; like events become one with a count. Raise UnavailableError when there is no room."""


class State:
    """What the links learn of one call; what they have not learnt yet stands here.

    Attributes:
        started: when it came, by ``time.perf_counter``.
        metadata: textual request metadata.
        allowed: seconds until the caller's deadline when it came, which the transport enforces; None without one.
    """

    caller: Caller | None = None
    certificate_pem = b""
    resources: tuple[str, ...] = ()
    decision: Decision | None = None
    call: Call | None = None
    allowed: float | None = None

    def __init__(self, metadata: Mapping[str, str]) -> None:
        self.started = time.perf_counter()
        self.metadata = metadata
        self.request_id = metadata.get(REQUEST_ID_KEY, "")[:MAX_TEXT] or os.urandom(16).hex()
        self.purpose = metadata.get(PURPOSE_KEY, "")[:MAX_TEXT]

    @property
    def overdue(self) -> bool:
        """Whether the caller's deadline has come."""
        if self.allowed is None:
            return False
        left = self.started + self.allowed - time.perf_counter()
        return left <= EARLY_SECONDS + EARLY_SHARE * self.allowed


class Outcomes:
    """Counts and audits how calls end."""

    def __init__(self, audit: AuditSink, metrics: CallMetrics) -> None:
        self._audit = audit
        self._metrics = metrics

    def measure(self, method: Method, state: State, code: str) -> None:
        """Count a call that ended."""
        self._metrics.ended(method.path, code, time.perf_counter() - state.started)

    async def record(self, method: Method, state: State, code: str) -> None:
        """Audit a use, and return when its event is as safe as the method demands.

        Raises:
            UnavailableError: it cannot be.
        """
        mode = method.access.audit
        if mode is Audit.DURABLE:
            await self._audit.append(event_of(method, state, code))
        elif mode is Audit.BUFFERED:
            self._audit.fold(event_of(method, state, code))

    def failed(self, method: Method, state: State, error: BaseException) -> BaseException:
        """Count and audit a call that failed, and return what the transport is to report."""
        # A transport may say of an upload that its deadline ended that it was cut off.
        if isinstance(error, asyncio.CancelledError) or (isinstance(error, CallCancelledError) and state.overdue):
            self._note(method, state, self.cut_off(method, state))
            return error
        if not isinstance(error, Exception):
            return error
        failure = _translate(error, state, method)
        self.measure(method, state, failure.code_name)
        self._metrics.failed(failure.reason)
        self._note(method, state, failure.code_name)
        return failure

    def cut_off(self, method: Method, state: State) -> str:
        """Count a call that its transport ended, and return the code that its caller saw."""
        if not state.overdue:
            self.measure(method, state, "CANCELLED")
            return "CANCELLED"
        self.measure(method, state, DeadlineExceededError.code_name)
        self._metrics.failed(DeadlineExceededError.default_reason)
        return DeadlineExceededError.code_name

    def _note(self, method: Method, state: State, code: str) -> None:
        """Audit a failure without making the caller wait; it gets no data, so nothing leaves unaudited."""
        if method.access.audit is Audit.NONE and code not in _DENIED:
            return
        try:
            # Folded, so that a flood of like refusals stays one event a second.
            self._audit.fold(event_of(method, state, code))
        except UnavailableError:
            log.error("audit_unavailable", action=method.action, request_id=state.request_id)


def event_of(method: Method, state: State, code: str) -> AuditEvent:
    """Return the audit event of a call that ends with a code."""
    caller, decision, call = state.caller, state.decision, state.call
    # As AuditEvent(…) does, without its Python, because one is made per call: half the time.
    return tuple.__new__(
        AuditEvent,
        (
            "" if caller is None else caller.principal,
            "" if caller is None else caller.on_behalf_of or "",
            method.action,
            state.resources,
            state.purpose,
            "deny" if code in _DENIED else "permit",
            () if decision is None else decision.policies,
            code,
            state.request_id,
            time.time_ns(),
            1,
            {} if call is None else call.audit_detail,
            "",
            "",
        ),
    )


def _translate(error: Exception, state: State, method: Method) -> HedgerowError:
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


def shutting_down() -> UnavailableError:
    """Return the refusal of a server that drains."""
    return UnavailableError("the server is shutting down; try another replica", reason="NOT_SERVING")


def overloaded(max_calls: int) -> ResourceExhaustedError:
    """Return the refusal of a server that is full."""
    return ResourceExhaustedError(
        f"{max_calls} calls are in progress; try again shortly", reason="OVERLOADED", retry_after=0.1
    )


def denied(method: Method, resource: str, purpose: str, decision: Decision) -> PermissionDeniedError:
    """Return the refusal of a call that policy does not permit."""
    metadata = {"action": method.action, "resource": resource}
    if decision.about_purpose:
        stated = f"the purpose {purpose!r} is not among those" if purpose else "no purpose is stated; state one"
        return PermissionDeniedError(
            f"{stated} that both {resource} and the caller allow",
            reason="PURPOSE_NOT_PERMITTED",
            metadata=metadata | {"purpose": purpose},
        )
    return PermissionDeniedError(f"no policy permits {method.action} on {resource}", metadata=metadata)
