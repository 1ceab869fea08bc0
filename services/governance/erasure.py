"""An erasure request and its receipt: the state machine. Pure.

A request is RUNNING until every store has answered. It then SUCCEEDED when every store reported the subject gone, and
otherwise FAILED, with the stores at fault named; a FAILED one may be taken up again. Only the pseudonym of the subject is
ever part of it.
"""

from __future__ import annotations

import enum
import hmac
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from hedgerow.errors import FailedPreconditionError

PSEUDONYM_CHARACTERS = 32


class State(enum.StrEnum):
    """What became of a request."""

    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class StoreErasure:
    """What one store did; the fields are those of the message of that name."""

    service: str
    store: str
    objects_searched: int = 0
    objects_rewritten: int = 0
    objects_destroyed: int = 0
    rows_erased: int = 0
    remaining_hits: int = 0
    error: str = ""

    @property
    def clean(self) -> bool:
        """Whether the subject is gone from this store."""
        return not self.error and self.remaining_hits == 0


@dataclass(frozen=True, slots=True)
class ErasureRequest:
    """A request to erase one subject.

    Attributes:
        id: last part of its name.
        request_id: the caller's, makes a retry safe.
        domain: pseudonym domain.
        subject_hash: the subject's pseudonym.
        state: where it stands.
        stores: what each store did, in order.
        create_ns: when it was asked for, nanoseconds since 1970.
        end_ns: when it ended; 0 while it runs.
        receipt: the canonical JSON that is signed; empty while it runs.
        signature: by signingKeys/governance-receipts.
    """

    id: str
    request_id: str
    domain: str
    subject_hash: str
    create_ns: int
    state: State = State.RUNNING
    stores: tuple[StoreErasure, ...] = ()
    end_ns: int = 0
    receipt: bytes = b""
    signature: bytes = b""

    @property
    def name(self) -> str:
        """The resource name."""
        return f"erasureRequests/{self.id}"

    def reported(self, service: str, answers: Iterable[StoreErasure]) -> ErasureRequest:
        """Take up what the stores of a service did, in place of what they said before."""
        self._require(State.RUNNING)
        kept = tuple(item for item in self.stores if item.service != service)
        return replace(self, stores=kept + tuple(answers))

    def ended(self, end_ns: int) -> ErasureRequest:
        """End the request and write its receipt, not yet signed."""
        self._require(State.RUNNING)
        clean = bool(self.stores) and all(item.clean for item in self.stores)
        done = replace(self, state=State.SUCCEEDED if clean else State.FAILED, end_ns=end_ns)
        return replace(done, receipt=_receipt(done))

    def signed(self, signature: bytes) -> ErasureRequest:
        """Attach the signature over the receipt."""
        if not self.receipt:
            raise FailedPreconditionError(f"{self.name} has no receipt yet")
        return replace(self, signature=signature)

    def retried(self) -> ErasureRequest:
        """Take a failed request up again."""
        self._require(State.FAILED)
        return replace(self, state=State.RUNNING, stores=(), end_ns=0, receipt=b"", signature=b"")

    def _require(self, state: State) -> None:
        if self.state is not state:
            raise FailedPreconditionError(f"{self.name} is {self.state}, not {state}", metadata={"resource": self.name})


def subject_hash(key: bytes, subject: str) -> str:
    """Return the pseudonym of a subject, as the lake writes it.

    Spelt out here because the lake's module brings its whole columnar engine into a process that needs one hash; a test
    holds the two against each other.
    """
    return hmac.digest(key, subject.encode(), "sha256").hex()[:PSEUDONYM_CHARACTERS]


def encode_stores(stores: Iterable[StoreErasure]) -> str:
    """Return the JSON form in which store answers are kept."""
    return json.dumps([asdict(item) for item in stores], sort_keys=True, separators=(",", ":"))


def decode_stores(text: str) -> tuple[StoreErasure, ...]:
    """Return store answers from their JSON form."""
    entries: list[Mapping[str, Any]] = json.loads(text)
    return tuple(StoreErasure(**entry) for entry in entries)


def _receipt(request: ErasureRequest) -> bytes:
    document = {
        "erasure_request": request.name,
        "domain": request.domain,
        "subject_hash": request.subject_hash,
        "state": str(request.state),
        "create_time_ns": request.create_ns,
        "end_time_ns": request.end_ns,
        "stores": [asdict(item) for item in request.stores],
    }
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
