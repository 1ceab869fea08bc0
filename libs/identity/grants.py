"""Grants: how the owner of keys lets another principal unwrap them for a while.

A grant is ``<payload>.<key version>.<signature>`` (base64url without padding). The payload is compact JSON with the keys,
the principal it is for and its expiry; the owner signs it with ``signingKeys/<owner>-grants``. Rules for a grant to hold:

1. all its keys have the same owner, and that owner's grant key signed it;
2. it has not expired, and it never lasts longer than ``MAX_LIFETIME``;
3. it covers a key only by its exact name, and only for the one principal it names.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import json
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hedgerow.errors import InvalidArgumentError, PermissionDeniedError

MAX_LIFETIME = dt.timedelta(hours=24)
MAX_KEYS = 64
MAX_LENGTH = 8192
MAX_VERSION_DIGITS = 9
# Says what is signed, so that no signature of another kind can pass for a grant.
_CONTEXT = b"hedgerow-grant-v1\n"


@dataclass(frozen=True)
class Grant:
    """A verified grant.

    Attributes:
        owner: the service that owns the keys and made the grant.
        keys: their names, ``keys/{key}``.
        grantee: SPIFFE ID of who may unwrap.
        expire_time: UTC.
    """

    owner: str
    keys: frozenset[str]
    grantee: str
    expire_time: dt.datetime

    def require(self, key: str, principal: str) -> None:
        """Check that the grant covers a key for a principal.

        Raises:
            PermissionDeniedError: it does not.
        """
        if principal != self.grantee:
            raise _invalid("the grant is for another principal")
        if key not in self.keys:
            raise _invalid("the grant does not cover this key")


def signing_key(owner: str) -> str:
    """Return the name of the key that signs an owner's grants."""
    return f"signingKeys/{owner}-grants"


def owner_of(name: str) -> str:
    """Return the owner of ``keys/{key}`` or ``signingKeys/{key}``: what is before the first ``-``; empty when malformed."""
    owner, _, rest = name.partition("/")[2].partition("-")
    return owner if rest else ""


def _common_owner(keys: Collection[str]) -> str:
    """Return the owner of all the keys; empty when they have none in common or there are too many."""
    owners = {owner_of(key) if key.startswith("keys/") else "" for key in keys}
    return owners.pop() if len(owners) == 1 and len(set(keys)) <= MAX_KEYS else ""


async def make_grant(
    sign: Callable[[bytes], Awaitable[tuple[bytes, int]]],
    *,
    keys: Sequence[str],
    grantee: str,
    expire_time: dt.datetime,
) -> str:
    """Return a grant.

    Args:
        sign: signs with the owner's grant key; returns signature and key version.
        keys: 1 to 64 names ``keys/{key}`` of one owner.
        grantee: SPIFFE ID of who may unwrap.
        expire_time: with time zone, at most ``MAX_LIFETIME`` away (a later one is refused when the grant is used).

    Raises:
        InvalidArgumentError: the keys have no common owner, or are too many.
    """
    if not _common_owner(keys):
        raise InvalidArgumentError(
            "a grant needs keys of one owner", fields={"keys": f"expected 1 to {MAX_KEYS} names keys/<owner>-…"}
        )
    content = {"keys": sorted(set(keys)), "grantee": grantee, "expires": int(expire_time.timestamp())}
    payload = json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
    signature, version = await sign(_CONTEXT + payload)
    return f"{_encode(payload)}.{version}.{_encode(signature)}"


def claimed_owner(grant: str) -> str:
    """Return the owner that a grant claims, before it is verified: whose keys to verify it with.

    Raises:
        PermissionDeniedError: it is malformed.
    """
    return _parse(grant)[0].owner


def verify_grant(verification_keys: Mapping[int, bytes], grant: str, now: dt.datetime) -> Grant:
    """Return what a grant allows.

    Args:
        verification_keys: raw public keys of the claimed owner's grant key, by version.
        grant: as received.
        now: with time zone.

    Raises:
        PermissionDeniedError: it is malformed, not signed by its owner, expired, or lasts too long (GRANT_INVALID).
    """
    parsed, payload, version, signature = _parse(grant)
    key = verification_keys.get(version)
    if key is None:
        raise _invalid("the grant is signed with an unknown key")
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, _CONTEXT + payload)
    except InvalidSignature as error:
        raise _invalid("the grant is not signed by the owner of its keys") from error
    if now >= parsed.expire_time:
        raise _invalid("the grant has expired; ask the owner for another")
    if parsed.expire_time - now > MAX_LIFETIME:
        raise _invalid(f"the grant lasts longer than {MAX_LIFETIME}")
    return parsed


def _parse(grant: str) -> tuple[Grant, bytes, int, bytes]:
    parts = grant.split(".")
    if len(parts) != 3 or len(grant) > MAX_LENGTH or not _is_version(parts[1]):
        raise _invalid("the grant is malformed")
    try:
        payload, signature = _decode(parts[0]), _decode(parts[2])
        content = json.loads(payload)
        keys = frozenset(str(key) for key in content["keys"])
        grantee = str(content["grantee"])
        expire_time = dt.datetime.fromtimestamp(int(content["expires"]), dt.UTC)
    except (ValueError, TypeError, KeyError, OverflowError, OSError, RecursionError) as error:
        raise _invalid("the grant is malformed") from error
    owner = _common_owner(keys)
    if not owner:
        raise _invalid("the grant does not name keys of one owner")
    return Grant(owner, keys, grantee, expire_time), payload, int(parts[1]), signature


def _is_version(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= MAX_VERSION_DIGITS


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error


def _invalid(what: str) -> PermissionDeniedError:
    return PermissionDeniedError(what, reason="GRANT_INVALID")
