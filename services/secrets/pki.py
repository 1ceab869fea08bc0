"""Certificates of the suite: who may have which names, signing, revocation, and the roots.

The secret server's PKI signs; a private key never leaves its workload. There is one role per service with exactly its
names, so that even a fault in this service cannot put one service's name on another's certificate through the wrong role.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.errors import InvalidArgumentError
from services.secrets.vault import Vault, VaultPathError, VaultRequestError

MAX_CSR_BYTES = 16 * 1024
MAX_SERIAL_DIGITS = 40
PERSON_ROLE = "person"
_ROOT_MOUNT = "pki_root"
_MOUNT = "pki_int"


@dataclass(frozen=True)
class IssuedCertificate:
    """A certificate fresh from the authority.

    Attributes:
        spiffe_id: its single URI SAN.
        chain_pem: leaf and intermediates, leaf first.
        root_pem: the root it chains to.
        root_fingerprint: SHA-256 of that root, lower-case hexadecimal.
        serial: lower-case hexadecimal without leading zeros.
        expire_time: UTC.
    """

    spiffe_id: str
    chain_pem: str
    root_pem: str
    root_fingerprint: str
    serial: str
    expire_time: dt.datetime


class CertificateAuthority:
    """The PKI mounts of the secret server. Its methods block and raise the errors of ``Vault``."""

    def __init__(self, vault: Vault, *, trust_domain: str, services: Sequence[str], life: dt.timedelta) -> None:
        """Name the parts.

        Args:
            vault: the client.
            trust_domain: such as ``hedgerow.local``.
            services: the services that can have a certificate.
            life: validity of a certificate.
        """
        self._vault = vault
        self._trust_domain = trust_domain
        self._services = frozenset(services)
        self._life = life

    def service_id(self, service: str) -> str:
        """The SPIFFE ID of a service."""
        return f"spiffe://{self._trust_domain}/service/{service}"

    def person_id(self, name: str) -> str:
        """The SPIFFE ID of a person."""
        return f"spiffe://{self._trust_domain}/user/{name}"

    def knows_service(self, service: str) -> bool:
        """Whether the service can have a certificate."""
        return service in self._services

    def reconcile(self) -> None:
        """Bring roles and settings of the PKI to what this module needs. Idempotent."""
        # With auto_rebuild a fresh revocation would be missing from the CRL until its next rotation.
        self._vault.write(f"{_MOUNT}/config/crl", {"expiry": "24h", "auto_rebuild": False})
        self._vault.write(
            f"{_MOUNT}/config/auto-tidy",
            {
                "enabled": True,
                "interval_duration": "12h",
                "tidy_cert_store": True,
                "tidy_revoked_certs": True,
                "safety_buffer": "2h",
            },
        )
        for service in sorted(self._services):
            names = {"allowed_uri_sans": [self.service_id(service)], "allowed_domains": self._dns_names(service)}
            self._vault.write(f"{_MOUNT}/roles/{_service_role(service)}", {**self._role(), **names})
        person = {
            "allowed_uri_sans": [self.person_id("*")],
            "allow_any_name": True,
            "enforce_hostnames": False,
            "allow_localhost": False,
            "allow_ip_sans": False,
            "server_flag": False,
        }
        self._vault.write(f"{_MOUNT}/roles/{PERSON_ROLE}", {**self._role(), **person})

    def sign_for_service(self, service: str, csr_pem: str) -> IssuedCertificate:
        """Sign a certificate for a service.

        Raises:
            InvalidArgumentError: the signing request is not acceptable.
        """
        dns_names = self._dns_names(service)
        names = {"common_name": dns_names[0], "alt_names": ",".join(dns_names), "ip_sans": "127.0.0.1"}
        return self._sign(_service_role(service), self.service_id(service), csr_pem, names)

    def sign_for_person(self, name: str, csr_pem: str) -> IssuedCertificate:
        """Sign a client certificate for a person.

        Raises:
            InvalidArgumentError: the signing request is not acceptable.
        """
        names = {"common_name": name, "exclude_cn_from_sans": True}
        return self._sign(PERSON_ROLE, self.person_id(name), csr_pem, names)

    def revoke(self, serial: str, now: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
        """Revoke a certificate; return when it took effect and when the certificate expires.

        Raises:
            InvalidArgumentError: no live certificate of the suite has that serial.
        """
        expire_time = self._expire_time(serial)
        if expire_time is None or expire_time <= now:
            raise _bad_serial("no certificate that is still valid has this serial number")
        try:
            answer = self._vault.write(f"{_MOUNT}/revoke", {"serial_number": _with_colons(serial)})
        except VaultRequestError as error:
            raise _bad_serial("the certificate of an issuer cannot be revoked here") from error
        return dt.datetime.fromtimestamp(int(answer["revocation_time"]), dt.UTC), expire_time

    def revoked_elsewhere(self, known: Container[str]) -> dict[str, dt.datetime]:
        """Return serial and expiry of certificates that were revoked in the secret server and are not known here."""
        found: dict[str, dt.datetime] = {}
        for key in self._vault.list_keys(f"{_MOUNT}/certs/revoked"):
            serial = f"{int(key.replace(':', '').replace('-', ''), 16):x}"
            if serial in known:
                continue
            expire_time = self._expire_time(serial)
            if expire_time is not None:
                found[serial] = expire_time
        return found

    def roots(self) -> dict[str, str]:
        """Return the roots of the secret server: PEM by fingerprint."""
        return read_roots(self._vault)

    def _sign(self, role: str, spiffe_id: str, csr_pem: str, names: dict[str, Any]) -> IssuedCertificate:
        check_csr(csr_pem)
        data = {"csr": csr_pem, "uri_sans": spiffe_id, "format": "pem", **names}
        answer = self._vault.write(f"{_MOUNT}/sign/{role}", data)
        leaf = x509.load_pem_x509_certificate(answer["certificate"].encode())
        *intermediates, root_pem = (pem.strip() + "\n" for pem in answer["ca_chain"])
        return IssuedCertificate(
            spiffe_id=spiffe_id,
            chain_pem=answer["certificate"].strip() + "\n" + "".join(intermediates),
            root_pem=root_pem,
            root_fingerprint=fingerprint(root_pem),
            serial=f"{leaf.serial_number:x}",
            expire_time=leaf.not_valid_after_utc,
        )

    def _expire_time(self, serial: str) -> dt.datetime | None:
        try:
            answer = self._vault.read(f"{_MOUNT}/cert/{_with_colons(serial)}")
        except VaultPathError:
            return None
        return x509.load_pem_x509_certificate(answer["certificate"].encode()).not_valid_after_utc

    def _dns_names(self, service: str) -> list[str]:
        return [f"{service}.{self._trust_domain}", "localhost"]

    def _role(self) -> dict[str, Any]:
        life = f"{int(self._life.total_seconds())}s"
        return {
            "allow_bare_domains": True,
            "allow_subdomains": False,
            "allow_localhost": True,
            "allow_ip_sans": True,
            "allow_any_name": False,
            "enforce_hostnames": True,
            # Only the public key of a request is used; its names are not.
            "use_csr_common_name": False,
            "use_csr_sans": False,
            "cn_validations": ["disabled"],
            "key_type": "ec",
            "key_bits": 256,
            "key_usage": ["DigitalSignature"],
            "server_flag": True,
            "client_flag": True,
            "ttl": life,
            "max_ttl": life,
            "not_before_duration": "30s",
            # Stored, so that it can be revoked by serial; not leased, because an expiring lease would fill the CRL.
            "no_store": False,
            "generate_lease": False,
        }


def read_roots(vault: Vault) -> dict[str, str]:
    """Return the roots of the secret server: PEM by fingerprint; raises the errors of ``Vault``."""
    roots: dict[str, str] = {}
    for issuer in vault.list_keys(f"{_ROOT_MOUNT}/issuers"):
        pem = str(vault.read(f"{_ROOT_MOUNT}/issuer/{issuer}")["certificate"]).strip() + "\n"
        roots[fingerprint(pem)] = pem
    return roots


def check_csr(csr_pem: str) -> None:
    """Check a signing request: PEM, signed by its own key, a P-256 key, at most 16 KiB.

    Raises:
        InvalidArgumentError: it is none of these.
    """
    if len(csr_pem) > MAX_CSR_BYTES:
        raise _bad_csr(f"expected at most {MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(csr_pem.encode())
        key = csr.public_key()
        sound = csr.is_signature_valid
    except (ValueError, TypeError) as error:
        raise _bad_csr("expected a PKCS#10 request in PEM") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise _bad_csr("expected a P-256 key")
    if not sound:
        raise _bad_csr("the request is not signed by its own key")


def check_serial(serial: str) -> str:
    """Return the serial number without leading zeros.

    Raises:
        InvalidArgumentError: it is not 1 to 40 lower-case hexadecimal digits.
    """
    if not 0 < len(serial) <= MAX_SERIAL_DIGITS or set(serial) - set("0123456789abcdef") or not serial.strip("0"):
        raise _bad_serial(f"expected 1 to {MAX_SERIAL_DIGITS} lower-case hexadecimal digits")
    return serial.lstrip("0")


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of a certificate, lower-case hexadecimal."""
    return x509.load_pem_x509_certificate(pem.encode()).fingerprint(hashes.SHA256()).hex()


def _service_role(service: str) -> str:
    return f"service-{service}"


def _with_colons(serial: str) -> str:
    number = int(serial, 16)
    return number.to_bytes((number.bit_length() + 7) // 8).hex(":")


def _bad_csr(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"csr_pem is not acceptable: {what}", fields={"csr_pem": what})


def _bad_serial(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"serial is not acceptable: {what}", fields={"serial": what})
