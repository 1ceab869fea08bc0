"""The errors of the suite: raised on the server, mapped once, and raised again as the same class in the client.

Every error carries a reason (a value of ``hedgerow.errors.v1.ErrorReason`` without its prefix) and travels as
``google.rpc.Status`` with an ``ErrorInfo`` of domain ``hedgerow.dev``; ``BadRequest`` names the fields at fault and
``RetryInfo`` says when to try again. Messages are written for the caller: they hold no secret, no personal data and no
internals.
"""

from __future__ import annotations

from collections.abc import Mapping

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN = "hedgerow.dev"
STATUS_DETAILS_KEY = "grpc-status-details-bin"
# gRPC gives up an error whose trailing metadata exceeds 8 KiB, and its code with it. UTF-8 bytes; the message goes twice,
# once with up to three bytes for each.
MAX_MESSAGE = 900
MAX_METADATA = 1000
MAX_FIELDS = 1400
MAX_ENTRY = 400


class HedgerowError(Exception):
    """Base of all typed errors.

    Attributes:
        code_name: name of the gRPC code, fixed per class.
        message: one sentence for the caller: what is wrong and the way out.
        reason: name of an ``ErrorReason`` without its prefix.
        metadata: machine-readable context, such as the resource or the receipt.
        fields: field path to what is wrong with it.
        retry_after: seconds after which a retry makes sense, or None.
    """

    code_name = "INTERNAL"
    default_reason = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        fields: Mapping[str, str] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.metadata = dict(metadata or {})
        self.fields = dict(fields or {})
        self.retry_after = retry_after

    @property
    def code(self) -> grpc.StatusCode:
        """The gRPC code."""
        return grpc.StatusCode[self.code_name]


class InvalidArgumentError(HedgerowError):
    """The request is wrong whatever the state of the system."""

    code_name = "INVALID_ARGUMENT"
    default_reason = "FIELD_INVALID"


class NotFoundError(HedgerowError):
    """The named resource does not exist."""

    code_name = "NOT_FOUND"
    default_reason = "RESOURCE_NOT_FOUND"


class AlreadyExistsError(HedgerowError):
    """A resource of that name exists with other content."""

    code_name = "ALREADY_EXISTS"
    default_reason = "RESOURCE_EXISTS"


class FailedPreconditionError(HedgerowError):
    """The state of the resource does not allow the call."""

    code_name = "FAILED_PRECONDITION"
    default_reason = "STATE_CONFLICT"


class PermissionDeniedError(HedgerowError):
    """No policy permits the call."""

    code_name = "PERMISSION_DENIED"
    default_reason = "POLICY_DENIED"


class UnauthenticatedError(HedgerowError):
    """The caller's identity is missing, invalid, expired or revoked."""

    code_name = "UNAUTHENTICATED"
    default_reason = "IDENTITY_INVALID"


class ResourceExhaustedError(HedgerowError):
    """A limit or a queue is full."""

    code_name = "RESOURCE_EXHAUSTED"
    default_reason = "OVERLOADED"


class UnavailableError(HedgerowError):
    """Something this call needs is not reachable just now; a retry may succeed."""

    code_name = "UNAVAILABLE"
    default_reason = "DEPENDENCY_UNAVAILABLE"


class AbortedError(HedgerowError):
    """Another writer was first."""

    code_name = "ABORTED"
    default_reason = "CONCURRENT_CHANGE"


class DataLossError(HedgerowError):
    """Stored bytes do not authenticate."""

    code_name = "DATA_LOSS"
    default_reason = "DATA_CORRUPT"


class CallCancelledError(HedgerowError):
    """The caller or an operator cancelled the work."""

    code_name = "CANCELLED"
    default_reason = "CANCELLED"


class DeadlineExceededError(HedgerowError):
    """The call ran past its deadline."""

    code_name = "DEADLINE_EXCEEDED"
    default_reason = "DEADLINE_EXCEEDED"


class UnimplementedError(HedgerowError):
    """The method does not exist or is not offered."""

    code_name = "UNIMPLEMENTED"
    default_reason = "METHOD_UNIMPLEMENTED"


class InternalError(HedgerowError):
    """A fault of the server."""


_CLASSES: dict[str, type[HedgerowError]] = {
    cls.code_name: cls
    for cls in (
        InvalidArgumentError,
        NotFoundError,
        AlreadyExistsError,
        FailedPreconditionError,
        PermissionDeniedError,
        UnauthenticatedError,
        ResourceExhaustedError,
        UnavailableError,
        AbortedError,
        DataLossError,
        CallCancelledError,
        DeadlineExceededError,
        UnimplementedError,
        InternalError,
    )
}


def to_status(error: HedgerowError) -> status_pb2.Status:
    """Return the wire form of an error; what is too long for a trailer is cut, and further entries are left out."""
    status = status_pb2.Status(code=code_pb2.Code.Value(error.code_name), message=_cut(error.message, MAX_MESSAGE))
    metadata = _bounded(error.metadata, MAX_METADATA)
    _add(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata))
    if error.fields:
        bad = error_details_pb2.BadRequest()
        for path, what in _bounded(error.fields, MAX_FIELDS).items():
            bad.field_violations.add(field=path, description=what)
        _add(status, bad)
    if error.retry_after is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after * 1e9))
        _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _cut(text: str, limit: int) -> str:
    encoded = text.encode()
    return text if len(encoded) <= limit else encoded[: limit - 3].decode(errors="ignore") + "…"


def _bounded(table: Mapping[str, str], limit: int) -> dict[str, str]:
    kept: dict[str, str] = {}
    for key, value in table.items():
        short_key, short_value = _cut(key, MAX_ENTRY), _cut(value, MAX_ENTRY)
        limit -= len(short_key.encode()) + len(short_value.encode()) + 8
        if limit < 0:
            break
        kept[short_key] = short_value
    return kept


def _add(status: status_pb2.Status, detail: error_details_pb2.ErrorInfo) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


def from_rpc_error(error: grpc.RpcError, peer: str = "") -> HedgerowError:
    """Return the typed error behind a failed call; a peer outside the suite yields the class of its code.

    What gRPC itself says of a peer that it cannot reach names addresses, and an error may travel on to a caller of the
    caller. So it becomes a note, which stays in this process, when ``peer`` says what to call the peer instead.
    """
    code: grpc.StatusCode = error.code()
    cls = _CLASSES.get(code.name, InternalError)
    message = error.details() or code.name
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_DETAILS_KEY:
            return _from_details(cls, message, value)
    if peer and cls is UnavailableError:
        away = cls(f"{peer} cannot be reached just now; try again shortly", metadata={"service": peer})
        away.add_note(message)
        return away
    if peer and cls is CallCancelledError:
        # What this side cancels raises CancelledError; gRPC says this for a server that had too many calls waiting.
        # Not UNAVAILABLE: that is tried again at once, which would make an overload worse.
        return ResourceExhaustedError(
            f"{peer} took no more calls just now; try again shortly", metadata={"service": peer}, retry_after=0.1
        )
    return cls(message, reason="MESSAGE_TOO_LARGE" if cls is ResourceExhaustedError else "")


def _from_details(cls: type[HedgerowError], message: str, raw: bytes) -> HedgerowError:
    status = status_pb2.Status.FromString(raw)
    info, bad, retry = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest(), error_details_pb2.RetryInfo()
    retry_after: float | None = None
    for detail in status.details:
        if detail.Is(info.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(bad.DESCRIPTOR):
            detail.Unpack(bad)
        elif detail.Is(retry.DESCRIPTOR):
            detail.Unpack(retry)
            retry_after = retry.retry_delay.ToNanoseconds() / 1e9
    return cls(
        status.message or message,
        reason=info.reason,
        metadata=dict(info.metadata),
        fields={v.field: v.description for v in bad.field_violations},
        retry_after=retry_after,
    )
