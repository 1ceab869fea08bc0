"""What a handler is told about its call, whatever the transport."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Peer:
    """The far end of a connection, as TLS established it.

    Attributes:
        certificate_pem: the leaf certificate the peer proved possession of.
        tls_version: such as ``TLSv1.3``.
    """

    certificate_pem: bytes
    tls_version: str


class TransportCall(Protocol):
    """One call as a transport hands it to the chain."""

    def peer(self) -> Peer | None:
        """The authenticated peer, or None without a client certificate."""

    def metadata(self) -> Mapping[str, str]:
        """Textual request metadata; the last value of a repeated key."""

    def binary_metadata(self) -> Mapping[str, bytes]:
        """Binary request metadata, whose keys end in ``-bin``; the last value of a repeated key.

        Raises:
            InvalidArgumentError: a value is malformed.
        """

    def time_left(self) -> float | None:
        """Seconds until the caller's deadline, or None without one."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls.

    Attributes:
        principal: SPIFFE ID of the peer.
        kind: ``user`` or ``service``.
        id: last part of the SPIFFE ID, such as ``features``.
        on_behalf_of: SPIFFE ID of the principal the call is made for, or None.
        principals: both, each of whom policy must permit the call.
    """

    principal: str
    kind: str
    id: str
    on_behalf_of: str | None = None
    principals: tuple[str, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        both = (self.principal,) if self.on_behalf_of is None else (self.principal, self.on_behalf_of)
        object.__setattr__(self, "principals", both)

    @property
    def effective(self) -> str:
        """The principal that wants the answer: the one the call is made for, else the caller."""
        return self.on_behalf_of or self.principal


class Call:
    """A call in a handler. Not a dataclass, because one is made per call: half the time.

    Attributes:
        caller: who calls.
        purpose: why, as stated; empty when not.
        request_id: finds the call in logs and the audit trail.
        metadata: textual request metadata.
        binary_metadata: returns the request metadata whose keys end in ``-bin``.
        audit_detail: counts to add to the audit event; never personal data.
    """

    __slots__ = (
        "_delegate", "_time_left", "audit_detail", "binary_metadata", "caller", "metadata", "purpose", "request_id",
    )  # fmt: skip

    def __init__(
        self, caller: Caller, purpose: str, request_id: str, metadata: Mapping[str, str],
        time_left: Callable[[], float | None], delegate: Callable[[str, str, float], str],
        binary_metadata: Callable[[], Mapping[str, bytes]] = dict,
    ) -> None:  # fmt: skip
        self.caller = caller
        self.purpose = purpose
        self.request_id = request_id
        self.metadata = metadata
        self.binary_metadata = binary_metadata
        self.audit_detail: dict[str, int] = {}
        self._time_left = time_left
        self._delegate = delegate

    def time_left(self) -> float:
        """Seconds until the deadline; never negative."""
        return max(0.0, self._time_left() or 0.0)

    def delegate(self, lifetime: float = 60.0) -> str:
        """Return a token that lets the next service act for whoever this call is made for.

        Args:
            lifetime: seconds the token is good for, at most 3,600, and no longer than this service's certificate.
        """
        return self._delegate(self.caller.effective, self.purpose, lifetime)

    def delegation(self, purpose: str) -> Callable[[float], str]:
        """Return what makes such tokens, given their lifetime, for work that goes on when the call has ended.

        Each is signed when it is asked for: one signed in advance would end with the certificate of then.

        Args:
            purpose: the call's or another, which the next service then asks of the same principal.
        """
        sign, principal = self._delegate, self.caller.effective
        return lambda lifetime: sign(principal, purpose, lifetime)
