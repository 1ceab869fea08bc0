"""Certificates and attestation against a real OpenBao."""

import datetime as dt
import ipaddress
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from hedgerow.errors import InvalidArgumentError, UnauthenticatedError
from hedgerow.identity import new_key_and_csr, spiffe_id
from services.secrets.attestation import Attestor
from services.secrets.issuance import Issuance
from services.secrets.pki import CertificateAuthority, check_serial
from services.secrets.trust_store import TrustStore
from services.secrets.vault import Vault, VaultRequestError


def now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def trust(vault: Vault, authority: CertificateAuthority) -> TrustStore:
    store = TrustStore(vault, authority, now)
    store.refresh()
    return store


def test_a_service_certificate_has_exactly_its_names(authority: CertificateAuthority) -> None:
    key_pem, csr = new_key_and_csr()
    issued = authority.sign_for_service("features", csr)
    leaf, *intermediates = x509.load_pem_x509_certificates(issued.chain_pem.encode())
    assert spiffe_id(leaf) == issued.spiffe_id == "spiffe://hedgerow.local/service/features"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert sorted(names.get_values_for_type(x509.DNSName)) == ["features.hedgerow.local", "localhost"]
    assert names.get_values_for_type(x509.IPAddress) == [ipaddress.ip_address("127.0.0.1")]
    assert len(names) == 4
    uses = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(uses) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert leaf.subject.rfc4514_string() == "CN=features.hedgerow.local"
    assert issued.serial == f"{leaf.serial_number:x}"
    assert dt.timedelta(minutes=59) < issued.expire_time - now() <= dt.timedelta(hours=1)
    private = serialization.load_pem_private_key(key_pem.encode() if isinstance(key_pem, str) else key_pem, None)
    assert private.public_key() == leaf.public_key()
    assert len(intermediates) == 1
    leaf.verify_directly_issued_by(intermediates[0])
    root = x509.load_pem_x509_certificate(issued.root_pem.encode())
    intermediates[0].verify_directly_issued_by(root)
    assert root.subject == root.issuer


def test_a_persons_certificate_is_for_clients_only(authority: CertificateAuthority) -> None:
    issued = authority.sign_for_person("ana", new_key_and_csr()[1])
    leaf = x509.load_pem_x509_certificate(issued.chain_pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://hedgerow.local/user/ana"]
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]


def test_names_in_the_request_are_ignored(authority: CertificateAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    wanted = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://hedgerow.local/service/secrets"), x509.DNSName("evil.example")]
    )
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "secrets.hedgerow.local")]))
        .add_extension(wanted, critical=False)
        .sign(key, hashes.SHA256())
    )
    issued = authority.sign_for_service("features", csr.public_bytes(serialization.Encoding.PEM).decode())
    leaf = x509.load_pem_x509_certificate(issued.chain_pem.encode())
    assert spiffe_id(leaf) == "spiffe://hedgerow.local/service/features"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "evil.example" not in names.get_values_for_type(x509.DNSName)


def test_the_role_of_one_service_refuses_the_name_of_another(vault: Vault, authority: CertificateAuthority) -> None:
    csr = new_key_and_csr()[1]
    for role, uri in [
        ("service-features", "spiffe://hedgerow.local/service/training"),
        ("service-features", "spiffe://hedgerow.local/user/ana"),
        ("person", "spiffe://hedgerow.local/service/features"),
        ("person", "spiffe://other.local/user/ana"),
    ]:
        with pytest.raises(VaultRequestError):
            vault.write(f"pki_int/sign/{role}", {"csr": csr, "uri_sans": uri, "common_name": "localhost"})


def test_reconciling_again_changes_nothing(vault: Vault, authority: CertificateAuthority) -> None:
    before = vault.read("pki_int/roles/service-features")
    authority.reconcile()
    assert vault.read("pki_int/roles/service-features") == before
    assert before["allowed_uri_sans"] == ["spiffe://hedgerow.local/service/features"]


def _csr_of(key: ec.EllipticCurvePrivateKey) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


@pytest.mark.parametrize(
    "csr",
    ["", "no pem", "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "x" * 20_000],
)
def test_malformed_requests_are_refused(authority: CertificateAuthority, csr: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        authority.sign_for_service("features", csr)
    assert list(caught.value.fields) == ["csr_pem"]


def test_other_keys_are_refused(authority: CertificateAuthority) -> None:
    with pytest.raises(InvalidArgumentError, match="P-256"):
        authority.sign_for_service("features", _csr_of(ec.generate_private_key(ec.SECP384R1())))


def test_a_revoked_serial_stays_after_a_restart(
    vault: Vault, authority: CertificateAuthority, trust: TrustStore
) -> None:
    issued = authority.sign_for_service("training", new_key_and_csr()[1])
    before = trust.note_issued(issued).version
    bundle, revoke_time = trust.revoke(issued.serial)
    assert bundle.version == before + 1
    assert abs((revoke_time - now()).total_seconds()) < 60
    assert TrustStore(vault, authority, now).load().revoked[issued.serial] == issued.expire_time
    assert trust.revoke(issued.serial)[0].version == bundle.version


def test_a_certificate_revoked_in_the_secret_server_is_found(
    vault: Vault, authority: CertificateAuthority, trust: TrustStore
) -> None:
    issued = authority.sign_for_service("training", new_key_and_csr()[1])
    authority.revoke(issued.serial, now())
    assert issued.serial not in trust.load().revoked
    bundle, _ = trust.refresh()
    assert issued.serial in bundle.revoked
    assert trust.refresh()[0] == bundle


@pytest.mark.parametrize("serial", ["", "0", "XY", "1F", "12:34", "f" * 41, "../crl"])
def test_malformed_serials_are_refused(serial: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        check_serial(serial)
    assert list(caught.value.fields) == ["serial"]


def test_unknown_serials_and_issuers_are_not_revoked(authority: CertificateAuthority, trust: TrustStore) -> None:
    issued = authority.sign_for_service("training", new_key_and_csr()[1])
    intermediate = x509.load_pem_x509_certificates(issued.chain_pem.encode())[1]
    for serial in ("1234", f"{intermediate.serial_number:x}"):
        with pytest.raises(InvalidArgumentError) as caught:
            trust.revoke(serial)
        assert list(caught.value.fields) == ["serial"]


def test_two_replicas_note_at_once_without_loss(
    vault: Vault, authority: CertificateAuthority, trust: TrustStore
) -> None:
    issued = [authority.sign_for_service("training", new_key_and_csr()[1]) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda one: TrustStore(vault, authority, now).revoke(one.serial), issued))
    assert {one.serial for one in issued} <= set(trust.load().revoked)


def test_who_is_no_longer_known_cannot_renew(vault: Vault, authority: CertificateAuthority, trust: TrustStore) -> None:
    issuance = Issuance(authority, Attestor(vault), trust)
    csr = new_key_and_csr()[1]
    assert issuance.renew("service", "features", csr)[0].spiffe_id == "spiffe://hedgerow.local/service/features"
    for kind, name in [("user", "test-nobody"), ("service", "billing"), ("other", "features")]:
        with pytest.raises(UnauthenticatedError):
            issuance.renew(kind, name, csr)


# Attestation ----------------------------------------------------------------------------------------------------------


def token_for(supervisor: Vault, service: str) -> str:
    stored = supervisor.read_record(f"enrolment/{service}")
    if stored is None:
        supervisor.write_record(f"enrolment/{service}", {"service": service}, expected_version=0)
    return supervisor.wrapped_record(f"enrolment/{service}", ttl_seconds=60)


def refused(attestor: Attestor, token: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        attestor.service_of(token)
    assert caught.value.reason == "CREDENTIAL_REFUSED"
    assert token not in caught.value.message or not token


def test_an_enrolment_token_works_once(vault: Vault, supervisor: Vault) -> None:
    attestor = Attestor(vault)
    token = token_for(supervisor, "features")
    assert attestor.service_of(token) == "features"
    refused(attestor, token)


def test_of_two_that_use_a_token_at_once_one_wins(vault: Vault, supervisor: Vault) -> None:
    attestor = Attestor(vault)

    def attempt(token: str) -> str | None:
        try:
            return attestor.service_of(token)
        except UnauthenticatedError:
            return None

    for _ in range(5):
        token = token_for(supervisor, "training")
        with ThreadPoolExecutor(4) as pool:
            results = list(pool.map(attempt, [token] * 4))
        assert sorted(results, key=str) == [None, None, None, "training"]


def test_made_up_and_malformed_tokens_are_refused(vault: Vault) -> None:
    attestor = Attestor(vault)
    for token in ("", "short", "s.AAAAAAAAAAAAAAAAAAAAAAAA", "x" * 2000, "with space", "a" * 30, "s.../../sys"):
        refused(attestor, token)


def test_a_token_that_wraps_anything_else_is_refused(vault: Vault, supervisor: Vault) -> None:
    refused(Attestor(vault), supervisor.wrapped_record("hedgerow/initialised", ttl_seconds=60))


def test_a_login_token_of_the_server_is_no_enrolment_token(vault: Vault) -> None:
    vault.state()
    refused(Attestor(vault), vault._current_token())


def test_passwords(vault: Vault, supervisor: Vault) -> None:
    supervisor.write(
        "auth/userpass/users/test-ana",
        {"password": "correct horse", "token_no_default_policy": True, "token_type": "batch"},
    )
    attestor = Attestor(vault)
    attestor.check_person("test-ana", "correct horse")
    assert attestor.person_exists("test-ana")
    assert not attestor.person_exists("test-nobody")
    for name, password in [("test-ana", "wrong"), ("test-ana", ""), ("test-nobody", "x"), ("test-ana", "x" * 2000)]:
        with pytest.raises(UnauthenticatedError) as caught:
            attestor.check_person(name, password)
        assert caught.value.reason == "CREDENTIAL_REFUSED"
    for name in ("", "Ana", "a/b", "../token", "a" * 65):
        with pytest.raises(InvalidArgumentError) as malformed:
            attestor.check_person(name, "x")
        assert list(malformed.value.fields) == ["username"]
