"""A segment's checkpoint: a C2SP tlog-checkpoint, that is, a signed note over the size and root of the chain's tree.

    hedgerow.local/audit/ingestion/3f9a12bc04d1          origin: one log per writer instance
    4711                                                 leaves: the events of the instance up to the segment's end
    <base64 of the root>
    segment ingestion-3f9a12bc04d1-0000000000004001      extension lines: the segment and its last chain hash
    chain <base64 of the chain hash>

    — hedgerow.local/signingKeys/ingestion-audit <base64 of key id and ed25519 signature>

The key id is SHA-256(key name | 0x0a | 0x01 | public key)[:4]; the signature covers everything up to and including the
line feed before the empty line.
"""

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MAX_CHECKPOINT_CHARACTERS = 4096

_KEY_ID_BYTES = 4
_SIGNATURE_MARK = "\u2014 "


class CheckpointError(ValueError):
    """The checkpoint is malformed, or no known key signed it."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a checkpoint states."""

    service: str
    instance: str
    size: int
    """Events of the instance from its first to the segment's last."""
    root: bytes
    segment: str
    chain_hash: bytes

    def body(self) -> str:
        """The signed text, its last line feed included."""
        lines = (
            f"hedgerow.local/audit/{self.service}/{self.instance}",
            str(self.size),
            base64.b64encode(self.root).decode(),
            f"segment {self.segment}",
            f"chain {base64.b64encode(self.chain_hash).decode()}",
        )
        return "\n".join(lines) + "\n"


def key_name(service: str) -> str:
    """The name under which a service's signatures stand in notes."""
    return f"hedgerow.local/signingKeys/{service}-audit"


def sign_note(body: str, name: str, public_key: bytes, signature: bytes) -> str:
    """Returns the note. Raises CheckpointError when the signature is not that of the key over the body."""
    _verify(public_key, signature, body)
    signed = base64.b64encode(_key_id(name, public_key) + signature).decode()
    return f"{body}\n{_SIGNATURE_MARK}{name} {signed}\n"


def open_note(note: str, name: str, public_keys: Iterable[bytes]) -> str:
    """Returns the body of a note that one of the keys signed under `name`. Raises CheckpointError."""
    body, separator, signatures = note.partition("\n\n")
    if not separator or len(note) > MAX_CHECKPOINT_CHARACTERS:
        raise CheckpointError("the checkpoint is not a signed note")
    body += "\n"
    by_id = {_key_id(name, key): key for key in public_keys}
    for line in signatures.splitlines():
        signer, _, encoded = line.removeprefix(_SIGNATURE_MARK).partition(" ")
        if not line.startswith(_SIGNATURE_MARK) or signer != name:
            continue
        blob = _decode(encoded)
        key = by_id.get(blob[:_KEY_ID_BYTES])
        if key is not None:
            _verify(key, blob[_KEY_ID_BYTES:], body)
            return body
    raise CheckpointError(f"no known key of {name} signed the checkpoint")


def open_checkpoint(note: str, service: str, public_keys: Iterable[bytes]) -> Checkpoint:
    """Returns what the service's signature vouches for. Raises CheckpointError."""
    return parse_checkpoint(open_note(note, key_name(service), public_keys), service)


def parse_checkpoint(body: str, service: str) -> Checkpoint:
    """Returns what the body of a note states, whoever signed it. Raises CheckpointError."""
    lines = body.splitlines()
    try:
        origin, size, root, segment, chain = lines
        prefix, stated_service, instance = origin.rsplit("/", 2)
        checkpoint = Checkpoint(
            service=stated_service,
            instance=instance,
            size=int(size),
            root=_decode(root),
            segment=segment.removeprefix("segment "),
            chain_hash=_decode(chain.removeprefix("chain ")),
        )
    except ValueError as error:
        raise CheckpointError("the checkpoint is malformed") from error
    if checkpoint.body() != body or prefix != "hedgerow.local/audit" or stated_service != service:
        raise CheckpointError("the checkpoint is malformed, or of another service")
    return checkpoint


def _key_id(name: str, public_key: bytes) -> bytes:
    return sha256(name.encode() + b"\n\x01" + public_key).digest()[:_KEY_ID_BYTES]


def _verify(public_key: bytes, signature: bytes, body: str) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, body.encode())
    except (InvalidSignature, ValueError) as error:
        raise CheckpointError("the checkpoint's signature does not verify") from error


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError as error:  # binascii.Error is one
        raise CheckpointError("the checkpoint holds text that is not base64") from error
