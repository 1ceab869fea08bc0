"""What the walks over all RPCs must know of one, and the two kinds that most are."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

MIB: Final = 1024 * 1024
SMALL: Final = 64 * 1024
NONE: Final = "nothing_of_this_name"
FALSE_NAME: Final = "Not a name"
UUID: Final = str(uuid.UUID(int=1))
PSEUDONYM: Final = "0" * 32
CREDIT: Final = "credit_risk"
LATER: Final = Timestamp(seconds=1_777_000_000)


@dataclass(frozen=True)
class Entry:
    """What the tests must know of one RPC.

    Attributes:
        who: a caller with the right to it.
        request: well formed; it names only what does not exist.
        malformed: requests with one fault, each with the field at fault.
        answer: code and reason that ``request`` gets; empty when nothing in it can be unknown, and it is not sent.
        purpose: to state.
        limit: the largest message in bytes.
        used: for an RPC that uses data: a request that names the gym's.
    """

    who: str
    request: Message
    malformed: Sequence[tuple[Message, str]] = ()
    answer: str = "NOT_FOUND RESOURCE_NOT_FOUND"
    purpose: str = ""
    limit: int = 4 * MIB
    used: Message | None = None


def named(who: str, kind: Any, collection: str, field: str = "name", **more: Any) -> Entry:
    """An RPC whose request is one resource name."""
    request, bad = kind(**{field: f"{collection}/{NONE}"}), kind(**{field: FALSE_NAME})
    return Entry(who, request, [(bad, field)], **more)


def listed(who: str, kind: Any, **more: Any) -> Entry:
    """A List RPC of the whole suite."""
    return Entry(who, kind(), page_faults(kind), answer="", **more)


def page_faults(kind: Any, **fields: str) -> list[tuple[Message, str]]:
    return [(kind(page_size=-1, **fields), "page_size"), (kind(page_token="!", **fields), "page_token")]
