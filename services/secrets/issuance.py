"""Who gets a certificate: a workload for its token, a person for a password, a caller for its current certificate.

A signing request is judged before the credential is spent, and a certificate is noted in the trust bundle before it is
handed out. Every method blocks and returns the certificate with the bundle to trust; all raise the errors of ``Vault``.
"""

from __future__ import annotations

from hedgerow.errors import UnauthenticatedError
from services.secrets.attestation import Attestor
from services.secrets.pki import CertificateAuthority, IssuedCertificate, check_csr
from services.secrets.trust import TrustBundle
from services.secrets.trust_store import TrustStore

SELF = "secrets"
Issued = tuple[IssuedCertificate, TrustBundle]


class Issuance:
    """The use cases of getting a certificate."""

    def __init__(self, authority: CertificateAuthority, attestor: Attestor, trust: TrustStore) -> None:
        self._authority = authority
        self._attestor = attestor
        self._trust = trust

    def enrol(self, token: str, csr_pem: str) -> Issued:
        """Issue to the workload that holds an enrolment token.

        Raises:
            InvalidArgumentError: the signing request is not acceptable; the token is not spent.
            UnauthenticatedError: the token is refused.
        """
        check_csr(csr_pem)
        service = self._attestor.service_of(token)
        # The secrets service enrols itself; nobody else may ever hold its name.
        if service == SELF or not self._authority.knows_service(service):
            raise UnauthenticatedError("the enrolment token is refused", reason="CREDENTIAL_REFUSED")
        return self._noted(self._authority.sign_for_service(service, csr_pem))

    def log_in(self, username: str, password: str, csr_pem: str) -> Issued:
        """Issue to a person.

        Raises:
            InvalidArgumentError: the signing request or the name is not acceptable.
            UnauthenticatedError: name and password do not belong together.
        """
        check_csr(csr_pem)
        self._attestor.check_person(username, password)
        return self._noted(self._authority.sign_for_person(username, csr_pem))

    def renew(self, kind: str, name: str, csr_pem: str) -> Issued:
        """Issue anew to who proved the same identity by a certificate.

        Args:
            kind: ``service`` or ``user``.
            name: of the service or person.
            csr_pem: for a new key.

        Raises:
            InvalidArgumentError: the signing request is not acceptable.
            UnauthenticatedError: the service or person is no longer known.
        """
        check_csr(csr_pem)
        if kind == "service" and self._authority.knows_service(name):
            return self._noted(self._authority.sign_for_service(name, csr_pem))
        # A certificate must not outlive the removal of its person by renewing itself for ever.
        if kind == "user" and self._attestor.person_exists(name):
            return self._noted(self._authority.sign_for_person(name, csr_pem))
        raise UnauthenticatedError("this identity is no longer known here; enrol or log in again")

    def issue_to_self(self, csr_pem: str) -> Issued:
        """Issue the certificate of the secrets service itself, which holds the Vault credential that signs."""
        return self._noted(self._authority.sign_for_service(SELF, csr_pem))

    def _noted(self, certificate: IssuedCertificate) -> Issued:
        return certificate, self._trust.note_issued(certificate)
