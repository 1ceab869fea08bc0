"""The trust bundle of the suite: a pure state machine over roots, what was issued under them, and what was revoked.

Rules:
1. A bundle always has at least one root.
2. A root is added before anything is issued under it, so that every peer can learn of it first.
3. A root is removed only when the last certificate issued under it has expired: until then some peer still presents one.
4. A revoked serial stays listed until its certificate has expired; then the certificate is refused for that.
5. The version grows by one with each change that a peer must learn of (roots, revoked serials), and never otherwise.

A bundle is a value; every operation returns another one.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hedgerow.errors import FailedPreconditionError


@dataclass(frozen=True)
class Root:
    """A trusted root.

    Attributes:
        pem: the certificate.
        last_expire_time: when the last certificate issued under it expires (UTC); None when none was.
    """

    pem: str
    last_expire_time: dt.datetime | None = None

    def is_in_use(self, now: dt.datetime) -> bool:
        """Whether a certificate that chains to it may still be live."""
        return self.last_expire_time is not None and now < self.last_expire_time


@dataclass(frozen=True)
class TrustBundle:
    """The roots to trust and the serials to refuse.

    Attributes:
        version: grows with each change that peers must learn of.
        roots: by SHA-256 fingerprint of the certificate, lower-case hexadecimal.
        revoked: expiry (UTC) by serial number, lower-case hexadecimal.
    """

    version: int = 0
    roots: Mapping[str, Root] = field(default_factory=dict)
    revoked: Mapping[str, dt.datetime] = field(default_factory=dict)

    @property
    def roots_pem(self) -> str:
        """All roots in PEM, in the order of their fingerprints."""
        return "".join(self.roots[fingerprint].pem.strip() + "\n" for fingerprint in sorted(self.roots))

    @property
    def revoked_serials(self) -> list[str]:
        """The revoked serials, sorted."""
        return sorted(self.revoked)

    def with_root(self, fingerprint: str, pem: str) -> TrustBundle:
        """Trust a root as well."""
        if fingerprint in self.roots:
            return self
        return replace(self, version=self.version + 1, roots={**self.roots, fingerprint: Root(pem)})

    def without_root(self, fingerprint: str, now: dt.datetime) -> TrustBundle:
        """Stop trusting a root.

        Raises:
            FailedPreconditionError: a live certificate may chain to it, or it is the only one.
        """
        root = self.roots.get(fingerprint)
        if root is None:
            return self
        if len(self.roots) == 1:
            raise FailedPreconditionError("the only root cannot be removed; add another first")
        if root.is_in_use(now):
            raise FailedPreconditionError(
                f"root {fingerprint[:16]} cannot be removed before {root.last_expire_time:%Y-%m-%dT%H:%M:%SZ}: "
                "a live certificate chains to it"
            )
        remaining = {key: value for key, value in self.roots.items() if key != fingerprint}
        return replace(self, version=self.version + 1, roots=remaining)

    def with_issued(self, fingerprint: str, expire_time: dt.datetime) -> TrustBundle:
        """Note that a certificate was issued under a root. Peers need not learn of it.

        Raises:
            FailedPreconditionError: the root is not in the bundle.
        """
        root = self.roots.get(fingerprint)
        if root is None:
            raise FailedPreconditionError(f"root {fingerprint[:16]} is not trusted yet; nothing can be issued under it")
        if root.last_expire_time is not None and expire_time <= root.last_expire_time:
            return self
        return replace(self, roots={**self.roots, fingerprint: replace(root, last_expire_time=expire_time)})

    def with_revoked(self, serial: str, expire_time: dt.datetime, now: dt.datetime) -> TrustBundle:
        """Refuse a certificate from now on; an expired one need not be listed."""
        if serial in self.revoked or expire_time <= now:
            return self
        return replace(self, version=self.version + 1, revoked={**self.revoked, serial: expire_time})

    def pruned(self, now: dt.datetime) -> TrustBundle:
        """Drop revoked serials whose certificates have expired."""
        live = {serial: expire_time for serial, expire_time in self.revoked.items() if now < expire_time}
        if len(live) == len(self.revoked):
            return self
        return replace(self, version=self.version + 1, revoked=live)

    def reconciled(self, issuers: Mapping[str, str], now: dt.datetime) -> tuple[TrustBundle, list[str]]:
        """Follow the roots that the secret server holds.

        Args:
            issuers: PEM by fingerprint of every root there.
            now: UTC.

        Returns:
            The bundle with new roots added and former ones removed, and the fingerprints of former ones that must stay
            because they are in use.
        """
        bundle = self
        for fingerprint, pem in issuers.items():
            bundle = bundle.with_root(fingerprint, pem)
        held: list[str] = []
        for fingerprint in self.roots.keys() - issuers.keys():
            try:
                bundle = bundle.without_root(fingerprint, now)
            except FailedPreconditionError:
                held.append(fingerprint)
        return bundle, sorted(held)


def to_record(bundle: TrustBundle) -> dict[str, Any]:
    """Return the form in which a bundle is stored."""
    return {
        "version": bundle.version,
        "roots": {
            fingerprint: {
                "pem": root.pem,
                "last_expire_time": root.last_expire_time.isoformat() if root.last_expire_time else None,
            }
            for fingerprint, root in bundle.roots.items()
        },
        "revoked": {serial: expire_time.isoformat() for serial, expire_time in bundle.revoked.items()},
    }


def from_record(record: Mapping[str, Any]) -> TrustBundle:
    """Return the bundle in a stored record."""
    return TrustBundle(
        version=int(record["version"]),
        roots={
            fingerprint: Root(
                root["pem"],
                dt.datetime.fromisoformat(root["last_expire_time"]) if root["last_expire_time"] else None,
            )
            for fingerprint, root in record["roots"].items()
        },
        revoked={serial: dt.datetime.fromisoformat(expiry) for serial, expiry in record["revoked"].items()},
    )
