"""Which roots to trust and which certificates to refuse, as the secrets service last said."""

from __future__ import annotations

import time
from dataclasses import dataclass

from cryptography import x509

from hedgerow.errors import UnauthenticatedError
from hedgerow.identity import spiffe_id

MAX_CACHED = 4096


@dataclass(frozen=True, slots=True)
class PeerIdentity:
    """What a certificate says of its holder.

    Attributes:
        spiffe_id: the single SPIFFE URI SAN.
        serial: lower-case hexadecimal.
        expire_time: seconds since 1970.
    """

    spiffe_id: str
    serial: str
    expire_time: float


class TrustStore:
    """Judges peer certificates that the TLS handshake has already verified against the roots.

    A live connection outlives its certificate, so expiry and revocation are judged again for each call, and revocation
    for each message of an open stream. A stream may outlive its certificate: rotation must not cut it.
    """

    def __init__(self, trust_domain: str) -> None:
        self._prefix = f"spiffe://{trust_domain}/"
        self._peers: dict[bytes, PeerIdentity] = {}
        self._revoked: frozenset[str] = frozenset()
        self.version = 0

    def update(self, version: int, revoked_serials: frozenset[str]) -> None:
        """Take over a newer state; an older one is ignored."""
        if version >= self.version:
            self.version, self._revoked = version, revoked_serials

    def judge(self, certificate_pem: bytes) -> PeerIdentity:
        """Return who a certificate speaks for.

        Raises:
            UnauthenticatedError: it does not have exactly one SPIFFE URI SAN in the trust domain, has expired, or is
                revoked.
        """
        peer = self._peer(certificate_pem)
        if time.time() >= peer.expire_time:
            raise UnauthenticatedError(
                "the certificate has expired; renew it and open a new connection", reason="CERTIFICATE_EXPIRED"
            )
        self._require_unrevoked(peer)
        return peer

    def judge_open(self, certificate_pem: bytes) -> None:
        """Judge the holder of an open stream again.

        Raises:
            UnauthenticatedError: the certificate is revoked.
        """
        if self._revoked:
            self._require_unrevoked(self._peer(certificate_pem))

    def _require_unrevoked(self, peer: PeerIdentity) -> None:
        if peer.serial in self._revoked:
            raise UnauthenticatedError("the certificate is revoked", reason="CERTIFICATE_REVOKED")

    def _peer(self, certificate_pem: bytes) -> PeerIdentity:
        peer = self._peers.get(certificate_pem)
        if peer is None:
            peer = self._parse(certificate_pem)
            if len(self._peers) >= MAX_CACHED:
                self._peers.clear()
            self._peers[certificate_pem] = peer
        return peer

    def _parse(self, certificate_pem: bytes) -> PeerIdentity:
        certificate = x509.load_pem_x509_certificate(certificate_pem)
        identity = spiffe_id(certificate)
        if not identity.startswith(self._prefix):
            raise UnauthenticatedError("the certificate is of another trust domain")
        return PeerIdentity(identity, f"{certificate.serial_number:x}", certificate.not_valid_after_utc.timestamp())
