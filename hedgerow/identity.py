"""Who a process or a person is: a private key, its certificate and the roots to trust, kept in a folder and renewed.

The private key is made here and never leaves. The folder holds ``identity.pem`` (key, leaf, intermediates) and
``roots.pem``, mode 0600, each replaced in one rename, so that a reader never sees half of a rotation.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import functools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.errors import UnauthenticatedError
from hedgerow.private_file import write_private

RETRY_SECONDS = 5.0
TRUST_DOMAIN = "hedgerow.local"
"""The trust domain of a suite that names none."""


@dataclass(frozen=True)
class Identity:
    """A key pair with its certificate, all in PEM.

    Attributes:
        key_pem: PKCS#8 private key (P-256).
        chain_pem: leaf and intermediates, leaf first.
        roots_pem: trusted roots.
    """

    key_pem: bytes
    chain_pem: bytes
    roots_pem: bytes

    @functools.cached_property
    def certificate(self) -> x509.Certificate:
        """The leaf."""
        return x509.load_pem_x509_certificate(self.chain_pem)

    @functools.cached_property
    def spiffe_id(self) -> str:
        """The single SPIFFE URI SAN of the leaf.

        Raises:
            UnauthenticatedError: the leaf has none, or more than one.
        """
        return spiffe_id(self.certificate)

    @property
    def trust_domain(self) -> str:
        """The trust domain of the SPIFFE ID, such as ``hedgerow.local``; services are named within it.

        Raises:
            UnauthenticatedError: the leaf has no SPIFFE ID, or more than one.
        """
        return self.spiffe_id.split("/")[2]

    @property
    def expire_time(self) -> dt.datetime:
        """When the leaf stops being valid (UTC)."""
        return self.certificate.not_valid_after_utc

    def renew_time(self) -> dt.datetime:
        """Half of the leaf's life."""
        begin = self.certificate.not_valid_before_utc
        return begin + (self.expire_time - begin) / 2

    def matches_key(self) -> bool:
        """Whether the private key belongs to the leaf."""
        key = serialization.load_pem_private_key(self.key_pem, password=None)
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        der = serialization.Encoding.DER
        return key.public_key().public_bytes(der, public) == self.certificate.public_key().public_bytes(der, public)


def spiffe_id(certificate: x509.Certificate) -> str:
    """Return the SPIFFE ID of a certificate: exactly one URI SAN with that scheme.

    Raises:
        UnauthenticatedError: it has no URI SAN, several, or one of another scheme.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except x509.ExtensionNotFound:
        uris = []
    if len(uris) != 1 or not uris[0].startswith("spiffe://"):
        raise UnauthenticatedError("the certificate must have exactly one SPIFFE URI SAN")
    return str(uris[0])


def new_key_and_csr() -> tuple[bytes, str]:
    """Return a fresh P-256 private key (PKCS#8 PEM) and a signing request for it (PEM, empty subject)."""
    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    key_pem = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return key_pem, csr.public_bytes(pem).decode()


class IdentityFolder:
    """The folder an identity lives in.

    Attributes:
        refused: how often a changed identity on disk could not be used, and the last good one stayed; an alert.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stamp: tuple[int, int] | None = None
        self._last: Identity | None = None
        self.refused = 0

    def save(self, identity: Identity) -> None:
        """Replace the identity; a reader sees the old one or the new one."""
        write_private(self.folder / "roots.pem", identity.roots_pem)
        write_private(self.folder / "identity.pem", identity.key_pem + identity.chain_pem)

    def load(self) -> Identity | None:
        """Return the stored identity, or None when there is none that can be used.

        A truncated file, or a key that does not match its certificate, counts as none.
        """
        try:
            pem = (self.folder / "identity.pem").read_bytes()
            roots = (self.folder / "roots.pem").read_bytes()
        except FileNotFoundError:
            return None
        key, mark, chain = pem.partition(b"-----BEGIN CERTIFICATE-----")
        identity = Identity(key, mark + chain, roots)
        try:
            x509.load_pem_x509_certificates(roots)
            return identity if identity.matches_key() else None
        except (ValueError, TypeError):
            return None

    def current(self) -> Identity | None:
        """Return the newest usable identity: the stored one when it changed and is sound, else the last good one."""
        try:
            stat = (self.folder / "identity.pem").stat()
        except FileNotFoundError:
            return self._last
        stamp = (stat.st_mtime_ns, stat.st_ino)
        if stamp != self._stamp:
            self._stamp = stamp
            changed = self.load()
            if changed is None:
                self.refused += 1
            self._last = changed or self._last
        return self._last


class IdentityRenewer:
    """Renews an identity at half of its life, and keeps trying at a steady pace when the issuer is away."""

    def __init__(
        self,
        folder: IdentityFolder,
        renew: Callable[[Identity], Awaitable[Identity]],
        *,
        on_failure: Callable[[Exception], None] = lambda error: None,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        self._folder = folder
        self._renew = renew
        self._on_failure = on_failure
        self._now = now

    def seconds_until_renewal(self, identity: Identity) -> float:
        """Seconds until half of the life, with up to a tenth of jitter so that a fleet does not renew at once."""
        left = (identity.renew_time() - self._now()).total_seconds()
        return max(0.0, left * random.uniform(0.9, 1.0))  # noqa: S311 - jitter, not a secret

    async def run(self) -> None:
        """Renew for ever; cancel to stop."""
        while True:
            identity = self._folder.current()
            await asyncio.sleep(RETRY_SECONDS if identity is None else self.seconds_until_renewal(identity))
            if identity is not None:
                with contextlib.suppress(_RenewFailed):
                    await self._renew_once(identity)
                    continue
            await asyncio.sleep(RETRY_SECONDS)

    async def _renew_once(self, identity: Identity) -> None:
        try:
            self._folder.save(await self._renew(identity))
        except Exception as error:
            self._on_failure(error)
            raise _RenewFailed from error


class _RenewFailed(Exception):
    """The attempt failed and was reported."""
