"""An anchor: the signed statement that a stretch of a chain is gone, and that this is accepted. It forgives nothing else.

Two kinds. LOST is an operator's word that events which were durable will never arrive; what follows them cannot be linked
to what is before them. EXPIRED is governance's own, when retention removed the start of a chain; it keeps the chain hash
and the tree behind what was removed, so that what remains still has to continue it.

    hedgerow.local/audit-anchor/ingestion/3f9a12bc04d1
    lost 4101 4711                                       kind, first and last event
    by spiffe://hedgerow.local/user/operator
    at 1795000000123456789                               nanoseconds since 1970
    reason disk 3 returned other bytes than it was given
    chain <base64>                                       EXPIRED only: behind the last event
    tree <base64> …                                      EXPIRED only: full subtrees over all events up to it

    — hedgerow.local/signingKeys/governance-anchors <base64 of key id and ed25519 signature>
"""

import base64
import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass

from libs.audit.checkpoint import CheckpointError, open_note
from libs.audit.hash_chain import HASH_BYTES

ANCHOR_KEYS = "governance-anchors"
ANCHOR_KEY_NAME = f"hedgerow.local/signingKeys/{ANCHOR_KEYS}"
MAX_REASON_CHARACTERS = 256

_BODY = re.compile(
    r"hedgerow\.local/audit-anchor/([a-z0-9]{1,32})/([a-z0-9]{1,32})\n"
    r"(lost|expired) (\d{1,19}) (\d{1,19})\nby (\S+)\nat (\d{1,19})\nreason ([^\n]+)\n"
    r"(?:chain (\S+)\ntree ([^\n]+)\n)?"
)


class AnchorKind(enum.StrEnum):
    """Why the events are gone."""

    LOST = "lost"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What an anchor states."""

    kind: AnchorKind
    service: str
    instance: str
    first: int
    """The first event that is gone."""
    last: int
    """The last event that is gone."""
    actor: str
    """The SPIFFE ID that accepted it."""
    time_ns: int
    reason: str
    chain_hash: bytes = b""
    tree_roots: tuple[bytes, ...] = ()

    @property
    def owner(self) -> tuple[str, str]:
        """(service, instance): the chain."""
        return self.service, self.instance

    @property
    def id(self) -> str:
        """One per chain, kind and first event."""
        return f"{self.service}-{self.instance}-{self.first:016d}-{self.kind}"

    def body(self) -> str:
        """The signed text, its last line feed included."""
        text = (
            f"hedgerow.local/audit-anchor/{self.service}/{self.instance}\n"
            f"{self.kind} {self.first} {self.last}\nby {self.actor}\nat {self.time_ns}\nreason {self.reason}\n"
        )
        if self.kind is AnchorKind.EXPIRED:
            tree = " ".join(base64.b64encode(node).decode() for node in self.tree_roots)
            text += f"chain {base64.b64encode(self.chain_hash).decode()}\ntree {tree}\n"
        return text

    def __str__(self) -> str:
        """In words."""
        chain = f"{self.service}-{self.instance}"
        return f"{chain}, events {self.first} to {self.last}: {self.kind}, accepted by {self.actor}: {self.reason}"


def open_anchor(note: str, public_keys: Iterable[bytes]) -> Anchor:
    """Returns what a note of signingKeys/governance-anchors states. Raises CheckpointError."""
    body = open_note(note, ANCHOR_KEY_NAME, public_keys)
    match = _BODY.fullmatch(body)
    if match is None:
        raise CheckpointError("the anchor is malformed")
    service, instance, kind, first, last, actor, time_ns, reason, chain, tree = match.groups()
    anchor = Anchor(
        AnchorKind(kind), service, instance, int(first), int(last), actor, int(time_ns), reason,
        _node(chain) if chain else b"", tuple(map(_node, tree.split(" "))) if tree else (),
    )  # fmt: skip
    expired = anchor.kind is AnchorKind.EXPIRED
    if anchor.body() != body or not 1 <= anchor.first <= anchor.last or expired != bool(chain):
        raise CheckpointError("the anchor is malformed")
    if expired and (anchor.first != 1 or len(anchor.tree_roots) != anchor.last.bit_count()):
        raise CheckpointError("the anchor is malformed")
    return anchor


def _node(text: str) -> bytes:
    try:
        node = base64.b64decode(text, validate=True)
    except ValueError as error:
        raise CheckpointError("the anchor holds text that is not base64") from error
    if len(node) != HASH_BYTES:
        raise CheckpointError("the anchor holds a hash of another length")
    return node
