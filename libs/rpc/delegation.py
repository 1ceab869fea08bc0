"""On-behalf-of tokens: how a service acts for a principal without becoming its confused deputy.

A token is a JWS (ES256) signed with the private key of the calling service's own certificate, which travels in its
``x5c`` header. Rules for a token to be honoured:

1. its certificate chains to the trusted roots and its SPIFFE ID is that of the peer of this very call, a service; so it is
   of no use to whoever it is shown to;
2. neither it nor its certificate has expired, and its life is at most an hour;
3. its purpose is the one the call states.

The service it is shown to then asks Cedar twice: may the peer, and may the principal? See ``docs/adr/0005-delegation.md``.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import verification

from hedgerow.errors import UnauthenticatedError
from hedgerow.identity import Identity, spiffe_id
from libs.authz.bundle import principal_kind

MAX_LIFETIME = 3600.0
CLOCK_SKEW = 30.0
MAX_CACHED = 1024
_ALGORITHM = "ES256"


class _Key:
    """What an identity signs with, taken apart once."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        der = serialization.Encoding.DER
        certificates = x509.load_pem_x509_certificates(identity.chain_pem)
        self.header = {"x5c": [base64.b64encode(c.public_bytes(der)).decode() for c in certificates]}
        self.private: Any = serialization.load_pem_private_key(identity.key_pem, password=None)
        self.expire_time = identity.expire_time.timestamp()


class DelegationSigner:
    """Signs tokens with the current identity of this service."""

    def __init__(self, identity: Callable[[], Identity]) -> None:
        self._identity = identity
        self._key: _Key | None = None
        self._cache: dict[tuple[str, str], tuple[float, str]] = {}

    def token(self, principal: str, purpose: str, lifetime: float) -> str:
        """Return a token for any audience of the suite; it lives no longer than the certificate that proves it.

        A token with at least half of its life left is handed out again: signing is dear on a hot path.
        """
        key, identity = self._key, self._identity()
        if key is None or key.identity is not identity:
            key = self._key = _Key(identity)
            self._cache.clear()
        lifetime, now = min(lifetime, MAX_LIFETIME), time.time()
        cached = self._cache.get((principal, purpose))
        if cached is not None and cached[0] >= min(now + lifetime / 2, key.expire_time):
            return cached[1]
        expire_time = min(now + lifetime, key.expire_time)
        claims = {"sub": principal, "purpose": purpose, "iat": int(now), "exp": int(expire_time)}
        token = jwt.encode(claims, key.private, algorithm=_ALGORITHM, headers=key.header)
        if len(self._cache) >= MAX_CACHED:
            self._cache.clear()
        self._cache[principal, purpose] = (expire_time, token)
        return token


@dataclass(frozen=True, slots=True)
class Delegation:
    """A verified token."""

    issuer: str
    principal: str
    purpose: str
    expire_time: float


class DelegationVerifier:
    """Verifies tokens against the trusted roots; each distinct token once."""

    def __init__(self, roots_pem: Callable[[], bytes]) -> None:
        self._roots_pem = roots_pem
        self._cache: dict[str, Delegation] = {}

    def verify(self, token: str, *, peer: str, purpose: str) -> str:
        """Return the principal that a token speaks for.

        Args:
            token: as received.
            peer: SPIFFE ID of the caller that shows it.
            purpose: as the call states it.

        Raises:
            UnauthenticatedError: a rule is broken.
        """
        if principal_kind(peer) != "Service":
            raise _refused("only a service may act for another")
        delegation = self._cache.get(token)
        if delegation is None:
            delegation = self._parse(token)
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            self._cache[token] = delegation
        if delegation.issuer != peer:
            raise _refused("it was signed by another service than the one that shows it")
        if delegation.purpose != purpose:
            raise _refused("it is for another purpose than the call states")
        if time.time() >= delegation.expire_time + CLOCK_SKEW:
            raise _refused("it has expired")
        return delegation.principal

    def _parse(self, token: str) -> Delegation:
        try:
            leaf, intermediates = _chain(jwt.get_unverified_header(token))
            self._check_chain(leaf, intermediates)
            claims = jwt.decode(
                token,
                leaf.public_key(),  # type: ignore[arg-type]
                algorithms=[_ALGORITHM],
                leeway=CLOCK_SKEW,
                options={"require": ["exp", "iat", "sub"]},
            )
        except (jwt.InvalidTokenError, ValueError, KeyError, TypeError, verification.VerificationError) as error:
            raise _refused("its signature or form does not verify") from error
        if claims["exp"] - claims["iat"] > MAX_LIFETIME:
            raise _refused("it lives too long")
        if principal_kind(str(claims["sub"])) is None:
            raise _refused("it is for neither a user nor a service")
        expire_time = min(float(claims["exp"]), leaf.not_valid_after_utc.timestamp())
        return Delegation(spiffe_id(leaf), str(claims["sub"]), str(claims.get("purpose", "")), expire_time)

    def _check_chain(self, leaf: x509.Certificate, intermediates: list[x509.Certificate]) -> None:
        store = verification.Store(x509.load_pem_x509_certificates(self._roots_pem()))
        # The web's profile forbids names and key usages that a private CA has; what counts here is the chain itself.
        authorities = verification.ExtensionPolicy.permit_all().require_present(
            x509.BasicConstraints, verification.Criticality.AGNOSTIC, None
        )
        leaves = verification.ExtensionPolicy.permit_all()
        builder = verification.PolicyBuilder().store(store)
        builder = builder.extension_policies(ca_policy=authorities, ee_policy=leaves)
        builder.build_client_verifier().verify(leaf, intermediates)


def _chain(header: dict[str, Any]) -> tuple[x509.Certificate, list[x509.Certificate]]:
    encoded = header["x5c"]
    if not isinstance(encoded, list) or not 1 <= len(encoded) <= 4:
        raise ValueError("x5c must hold one to four certificates")
    certificates = [x509.load_der_x509_certificate(base64.b64decode(c)) for c in encoded]
    return certificates[0], certificates[1:]


def _refused(why: str) -> UnauthenticatedError:
    return UnauthenticatedError(f"the on-behalf-of token is refused: {why}", reason="DELEGATION_INVALID")
