"""The trust bundle as it is kept: one record in the secret server, changed by check-and-set.

So a restart keeps the revocation list, a lost disk does not lose it, and two replicas see each other's changes.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable

from hedgerow.errors import AbortedError
from services.secrets.pki import CertificateAuthority, IssuedCertificate
from services.secrets.trust import TrustBundle, from_record, to_record
from services.secrets.vault import Vault

RECORD = "trust/bundle"
ATTEMPTS = 10


class TrustStore:
    """Reads and changes the kept bundle. Its methods block and raise the errors of ``Vault``."""

    def __init__(self, vault: Vault, authority: CertificateAuthority, now: Callable[[], dt.datetime]) -> None:
        self._vault = vault
        self._authority = authority
        self._now = now

    def load(self) -> TrustBundle:
        """Return the kept bundle; an empty one before the first refresh."""
        stored = self._vault.read_record(RECORD)
        return TrustBundle() if stored is None else from_record(stored[0])

    def refresh(self) -> tuple[TrustBundle, list[str]]:
        """Follow the secret server: roots added or removed there, certificates revoked there, expired ones dropped.

        Returns:
            The bundle, and the fingerprints of removed roots that must stay because a live certificate chains to them.
        """
        issuers = self._authority.roots()
        known = self.load().revoked
        found = self._authority.revoked_elsewhere(known)
        held: list[str] = []

        def follow(bundle: TrustBundle) -> TrustBundle:
            nonlocal held
            now = self._now()
            bundle, held = bundle.reconciled(issuers, now)
            for serial, expire_time in found.items():
                bundle = bundle.with_revoked(serial, expire_time, now)
            return bundle.pruned(now)

        return self._change(follow), held

    def note_issued(self, certificate: IssuedCertificate) -> TrustBundle:
        """Note a certificate before it is handed out, so that its root cannot be removed while it lives."""
        return self._change(
            lambda bundle: bundle.with_root(certificate.root_fingerprint, certificate.root_pem).with_issued(
                certificate.root_fingerprint, certificate.expire_time
            )
        )

    def revoke(self, serial: str) -> tuple[TrustBundle, dt.datetime]:
        """Revoke a certificate in the secret server and in the bundle; return when it took effect.

        Raises:
            InvalidArgumentError: no live certificate of the suite has that serial.
        """
        revoke_time, expire_time = self._authority.revoke(serial, self._now())
        return self._change(lambda bundle: bundle.with_revoked(serial, expire_time, self._now())), revoke_time

    def _change(self, change: Callable[[TrustBundle], TrustBundle]) -> TrustBundle:
        for _ in range(ATTEMPTS):
            stored = self._vault.read_record(RECORD)
            bundle, version = (from_record(stored[0]), stored[1]) if stored else (TrustBundle(), 0)
            changed = change(bundle)
            if changed == bundle or self._vault.write_record(RECORD, to_record(changed), expected_version=version):
                return changed
        raise AbortedError("the trust bundle is changing too fast; try again")
