"""A certificate authority for tests: real X.509, any names and lifetimes."""

from __future__ import annotations

import datetime as dt
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from hedgerow.identity import Identity, IdentityFolder

DOMAIN = "hedgerow.local"
PEM = serialization.Encoding.PEM


def service_id(name: str) -> str:
    """Return the SPIFFE ID of a service."""
    return f"spiffe://{DOMAIN}/service/{name}"


def user_id(name: str) -> str:
    """Return the SPIFFE ID of a person or application."""
    return f"spiffe://{DOMAIN}/user/{name}"


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


class Authority:
    """A root that signs leaves directly."""

    def __init__(self, common_name: str = "test root") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(_name(common_name))
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def roots_pem(self) -> bytes:
        """The root in PEM."""
        return self.certificate.public_bytes(PEM)

    def issue(
        self,
        *uris: str,
        dns: Sequence[str] = ("localhost",),
        common_name: str = "leaf",
        email: str = "",
        life: dt.timedelta = dt.timedelta(hours=1),
        age: dt.timedelta = dt.timedelta(minutes=1),
        roots_pem: bytes | None = None,
    ) -> Identity:
        """Return an identity with the given names, born ``age`` ago and valid for ``life`` from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in uris]
        names += [x509.DNSName(name) for name in dns]
        if dns:
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        if email:
            names.append(x509.RFC822Name(email))
        builder = (
            x509.CertificateBuilder()
            .subject_name(_name(common_name))
            .issuer_name(self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - age)
            .not_valid_after(now + life)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        leaf = builder.sign(self._key, hashes.SHA256())
        key_pem = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        return Identity(key_pem, leaf.public_bytes(PEM), roots_pem or self.roots_pem)

    def service(self, name: str, **options: object) -> Identity:
        """Return the identity of a service, with its server names."""
        return self.issue(service_id(name), dns=(f"{name}.{DOMAIN}", "localhost"), **options)  # type: ignore[arg-type]

    def user(self, name: str, **options: object) -> Identity:
        """Return the identity of a person or application."""
        return self.issue(user_id(name), dns=(), **options)  # type: ignore[arg-type]


def folder(path: Path, identity: Identity) -> IdentityFolder:
    """Save an identity and return its folder."""
    kept = IdentityFolder(path)
    kept.save(identity)
    return kept
