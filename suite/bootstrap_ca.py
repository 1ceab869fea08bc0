"""The bootstrap CA of one machine: it lets the supervisor, the secrets service and an administrator log in to OpenBao, and
certifies the servers that are no services of the suite: OpenBao and, in the distributed profile, the shared stores.

Workload certificates come from OpenBao's own PKI; no service trusts the bootstrap CA but for a store's server. Its folder
is the trust anchor of the machine: mode 0700, outside the data folder of OpenBao. Nothing in the suite uses the
administrator's certificate; it is for work on OpenBao itself, such as a new root (``deploy/openbao/README.md``), and may be
kept elsewhere.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from hedgerow.private_file import write_private

CA_LIFE = dt.timedelta(days=3650)
LEAF_LIFE = dt.timedelta(days=365)
_BACKDATE = dt.timedelta(minutes=5)
_SEAL_KEY_BYTES = 32


@dataclass(frozen=True)
class _Leaf:
    """One certificate that the bootstrap CA signs: a file stem, a common name, its use and its names."""

    stem: str
    common_name: str
    usage: ObjectIdentifier
    names: Sequence[x509.GeneralName]


class BootstrapFolder:
    """The bootstrap CA, the certificates it signed and the seal key, as files."""

    def __init__(self, folder: Path, trust_domain: str, seal_key: Path | None = None) -> None:
        self.folder = folder
        self.trust_domain = trust_domain
        self.ca_file = folder / "ca.pem"
        self.seal_key = seal_key or folder / "seal.key"

    @property
    def secrets_uri(self) -> str:
        """The URI SAN with which the secrets service logs in to OpenBao."""
        return f"spiffe://{self.trust_domain}/service/secrets"

    @property
    def supervisor_uri(self) -> str:
        """The URI SAN with which the supervisor logs in to OpenBao."""
        return f"spiffe://{self.trust_domain}/supervisor"

    @property
    def admin_uri(self) -> str:
        """The URI SAN with which an administrator logs in to OpenBao."""
        return f"spiffe://{self.trust_domain}/admin"

    def certificate(self, stem: str) -> tuple[Path, Path]:
        """Return the certificate and key file of ``listener``, ``stores``, ``secrets``, ``supervisor`` or ``admin``."""
        return self.folder / f"{stem}.pem", self.folder / f"{stem}.key"

    def ensure(self, now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC)) -> None:
        """Make what is missing and replace certificates that are past half of their life."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not self.seal_key.exists():
            self.seal_key.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(self.seal_key, os.urandom(_SEAL_KEY_BYTES))
        ca_key_file = self.folder / "ca.key"
        if not (self.ca_file.exists() and ca_key_file.exists()):
            self._make_ca(ca_key_file, now())
        ca = x509.load_pem_x509_certificate(self.ca_file.read_bytes())
        ca_key = serialization.load_pem_private_key(ca_key_file.read_bytes(), password=None)
        assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
        for leaf in self._leaves():
            if not self._is_fresh(leaf, ca, now()):
                self._make_leaf(leaf, ca, ca_key, now())

    def _leaves(self) -> tuple[_Leaf, ...]:
        local = (x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        client = ExtendedKeyUsageOID.CLIENT_AUTH
        return (
            _Leaf("listener", "openbao", ExtendedKeyUsageOID.SERVER_AUTH, local),
            _Leaf("stores", "stores", ExtendedKeyUsageOID.SERVER_AUTH, local),
            # OpenBao's cert auth takes its alias from the common name, so there must be one.
            _Leaf("secrets", "secrets", client, (x509.UniformResourceIdentifier(self.secrets_uri),)),
            _Leaf("supervisor", "supervisor", client, (x509.UniformResourceIdentifier(self.supervisor_uri),)),
            _Leaf("admin", "admin", client, (x509.UniformResourceIdentifier(self.admin_uri),)),
        )

    def _is_fresh(self, leaf: _Leaf, ca: x509.Certificate, now: dt.datetime) -> bool:
        certificate_file, key_file = self.certificate(leaf.stem)
        if not (certificate_file.exists() and key_file.exists()):
            return False
        certificate = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return certificate.issuer == ca.subject and now < begin + (end - begin) / 2

    def _make_ca(self, key_file: Path, now: dt.datetime) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name("Hedgerow bootstrap CA")
        certificate = (
            _builder(name, name, key, now, CA_LIFE)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        write_private(key_file, _key_pem(key))
        write_private(self.ca_file, certificate.public_bytes(serialization.Encoding.PEM))

    def _make_leaf(
        self, leaf: _Leaf, ca: x509.Certificate, ca_key: ec.EllipticCurvePrivateKey, now: dt.datetime
    ) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(leaf.common_name), ca.subject, key, now, LEAF_LIFE)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([leaf.usage]), critical=False)
            .add_extension(x509.SubjectAlternativeName(leaf.names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
            .sign(ca_key, hashes.SHA256())
        )
        certificate_file, key_file = self.certificate(leaf.stem)
        write_private(key_file, _key_pem(key))
        write_private(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: dt.datetime, life: dt.timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATE)
        .not_valid_after(now + life)
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
