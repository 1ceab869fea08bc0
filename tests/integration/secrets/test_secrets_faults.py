"""Faults of identity and of the secret server: field cases TLS-05, TLS-06 and VLT-07."""

import datetime as dt
import json
import os
import random
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hedgerow.errors import UnauthenticatedError, UnavailableError
from hedgerow.identity import Identity, IdentityFolder, new_key_and_csr
from libs.config import ServiceConfig
from libs.runtime.enrolment import obtain_identity
from services.secrets.attestation import Attestor
from services.secrets.issuance import Issuance
from services.secrets.keys import KeyRing
from services.secrets.pki import CertificateAuthority
from services.secrets.self_identity import SelfIdentity
from services.secrets.trust import TrustBundle
from services.secrets.trust_store import TrustStore
from services.secrets.vault import Vault, VaultSealedError, VaultUnreachableError
from suite.config import SERVICES
from suite.openbao import OpenBao
from tests.support import openbao as support
from tests.support.authority import Authority, folder
from tests.support.suite import running_suite

ROOT = Path(__file__).resolve().parents[3]


class Clock:
    """A clock that can be moved."""

    def __init__(self) -> None:
        self.offset = dt.timedelta()

    def __call__(self) -> dt.datetime:
        return dt.datetime.now(dt.UTC) + self.offset


class Issuer:
    """The secrets service without its ports."""

    def __init__(self, server: OpenBao) -> None:
        self.vault = Vault(server.settings("secrets"))
        self.admin = Vault(server.settings("admin"))
        self.clock = Clock()
        self.authority = CertificateAuthority(
            self.vault, trust_domain=support.TRUST_DOMAIN, services=SERVICES, life=dt.timedelta(hours=1)
        )
        self.authority.reconcile()
        self.trust = TrustStore(self.vault, self.authority, self.clock)
        self.trust.refresh()
        self.issuance = Issuance(self.authority, Attestor(self.vault), self.trust)

    def renew(self, service: str) -> Identity:
        key_pem, csr = new_key_and_csr()
        certificate, bundle = self.issuance.renew("service", service, csr)
        return Identity(key_pem, certificate.chain_pem.encode(), bundle.roots_pem.encode())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[OpenBao]:
    with support.running(tmp_path) as running:
        yield running


# TLS-05: start-up with an expired identity ---------------------------------------------------------------------------


async def test_an_expired_identity_is_replaced_while_the_issuer_is_up(server: OpenBao, tmp_path: Path) -> None:
    issuer = Issuer(server)
    folder = IdentityFolder(tmp_path / "identity")
    bundles: list[TrustBundle] = []

    async def show(bundle: TrustBundle) -> None:
        bundles.append(bundle)

    myself = SelfIdentity(issuer.issuance, show, issuer.clock)
    first = await myself.obtain(folder)
    assert (await myself.obtain(folder)).chain_pem == first.chain_pem
    issuer.clock.offset = dt.timedelta(days=1)
    second = await myself.obtain(folder)
    assert second.chain_pem != first.chain_pem
    stored = IdentityFolder(tmp_path / "identity").load()
    assert stored is not None
    assert stored.chain_pem == second.chain_pem
    assert len(bundles) == 2


def test_without_identity_and_issuer_it_ends_with_one_clear_line(tmp_path: Path) -> None:
    server = support.make(tmp_path)
    server.prepare()
    cert_file, key_file = server.bootstrap.certificate("secrets")
    variables = {
        "HEDGEROW_SERVICE": "secrets",
        "HEDGEROW_LISTEN": "127.0.0.1:0",
        "HEDGEROW_ENROLMENT_ADDRESS": "127.0.0.1:0",
        "HEDGEROW_DATA_DIR": str(tmp_path / "secrets"),
        "HEDGEROW_TRUST_DIR": str(tmp_path / "trust"),
        "HEDGEROW_VAULT_ADDRESS": server.address,
        "HEDGEROW_VAULT_CA_FILE": str(server.bootstrap.ca_file),
        "HEDGEROW_VAULT_CERT_FILE": str(cert_file),
        "HEDGEROW_VAULT_KEY_FILE": str(key_file),
        "HEDGEROW_VAULT_PATIENCE_SECONDS": "0.5",
    }
    (tmp_path / "secrets").mkdir()
    result = subprocess.run(
        [sys.executable, "-m", "services.secrets"], cwd=ROOT, env={**os.environ, **variables},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert result.returncode == 3
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(line["event"], line["reason"]) for line in lines] == [("cannot_start", "DEPENDENCY_UNAVAILABLE")]
    assert lines[0]["message"] == "the secret server cannot be reached; try again"


def expired(tmp_path: Path) -> tuple[ServiceConfig, IdentityFolder]:
    """Return a service whose stored certificate expired yesterday, and its folder; nobody listens where it enrols."""
    config = ServiceConfig(
        service="features",
        listen="127.0.0.1:0",
        data_dir=tmp_path / "features",
        trust_dir=tmp_path / "suite" / "trust",
        enrolment_address=f"127.0.0.1:{support.free_port()}",
        enrolment_token_file=tmp_path / "token",
    )
    old = Authority().service("features", life=-dt.timedelta(days=1), age=dt.timedelta(days=2))
    return config, folder(config.data_dir / "identity", old)


async def test_an_expired_service_gets_a_new_certificate_for_its_token(tmp_path: Path) -> None:
    config, kept = expired(tmp_path)
    old, file = kept.load(), tmp_path / "token"
    with running_suite(tmp_path / "suite", ["secrets"]) as suite:
        config = config.model_copy(update={"enrolment_address": suite.config.address("enrolment")})
        token = suite.token("features")
        file.write_text(token)
        made = await obtain_identity(config, kept)
        assert old is not None
        assert made.certificate.serial_number != old.certificate.serial_number
        assert made.spiffe_id == "spiffe://hedgerow.local/service/features"
        assert kept.load() == made
        assert not file.exists()
        file.write_text(token)
        assert await obtain_identity(config, kept) == made, "a good identity asks for nothing"
        assert file.exists()
        with pytest.raises(UnauthenticatedError) as spent:
            await obtain_identity(config, IdentityFolder(tmp_path / "other"))
        assert spent.value.reason == "CREDENTIAL_REFUSED"


def test_an_expired_service_without_a_token_ends_with_one_clear_line(tmp_path: Path) -> None:
    config, kept = expired(tmp_path)
    before = (kept.folder / "identity.pem").read_bytes()
    variables = {
        "HEDGEROW_SERVICE": "features",
        "HEDGEROW_LISTEN": "127.0.0.1:0",
        "HEDGEROW_DATA_DIR": str(config.data_dir),
        "HEDGEROW_TRUST_DIR": str(config.trust_dir),
        "HEDGEROW_ENROLMENT_ADDRESS": config.enrolment_address,
        "HEDGEROW_ENROLMENT_TOKEN_FILE": str(config.enrolment_token_file),
    }
    result = subprocess.run(
        [sys.executable, "-m", "services.features"], cwd=ROOT, env={**os.environ, **variables},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 3
    lines = [json.loads(line) for line in result.stderr.splitlines()]
    assert [(line["event"], line["reason"]) for line in lines] == [("cannot_start", "IDENTITY_INVALID")]
    assert "give the service a new token" in lines[0]["message"]
    assert (kept.folder / "identity.pem").read_bytes() == before


async def test_an_expired_service_whose_issuer_is_down_says_so_and_keeps_what_it_has(tmp_path: Path) -> None:
    config, kept = expired(tmp_path)
    before, token = (kept.folder / "identity.pem").read_bytes(), tmp_path / "token"
    token.write_text("s.of-no-use-just-now")
    config.trust_dir.mkdir(parents=True)
    (config.trust_dir / "enrolment-ca.pem").write_bytes(Authority().roots_pem)
    with pytest.raises(UnavailableError) as away:
        await obtain_identity(config, kept, timeout=0.5)
    assert away.value.reason == "DEPENDENCY_UNAVAILABLE"
    assert "enrolment port" in away.value.message
    assert (kept.folder / "identity.pem").read_bytes() == before
    assert token.read_text() == "s.of-no-use-just-now"


# TLS-06: rotation of the issuer -----------------------------------------------------------------------------------------


def trusts(client: Identity, server: Identity) -> bool:
    """Whether a mutual handshake between two identities succeeds."""
    contexts = [ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)]
    for context, own in zip(contexts, (client, server), strict=True):
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=own.roots_pem.decode())
        # load_cert_chain wants a path; this one never touches a disk.
        with open(os.memfd_create("identity"), "wb") as file:
            file.write(own.key_pem + own.chain_pem)
            file.flush()
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        contexts[0].wrap_bio(to_client, to_server, server_hostname="localhost"),
        contexts[1].wrap_bio(to_server, to_client, server_side=True),
    ]
    done = [False, False]
    try:
        for _ in range(10):
            for number, end in enumerate(ends):
                try:
                    if not done[number]:
                        end.do_handshake()
                        done[number] = True
                except ssl.SSLWantReadError:
                    pass
    except ssl.SSLCertVerificationError:
        return False
    return all(done)


def second_root(admin: Vault) -> None:
    admin.write(
        "pki_root/root/rotate/internal",
        {"common_name": "Hedgerow root 2", "key_type": "ec", "key_bits": 384, "issuer_name": "root-2"},
    )


def second_intermediate(admin: Vault) -> None:
    made = admin.write(
        "pki_int/intermediate/generate/internal",
        {"common_name": "Workload intermediate 2", "key_type": "ec", "key_bits": 256},
    )
    signed = admin.write(
        "pki_root/issuer/root-2/sign-intermediate",
        {"csr": made["csr"], "common_name": "Workload intermediate 2", "ttl": "43800h", "max_path_length": 0},
    )
    imported = admin.write(
        "pki_int/intermediate/set-signed", {"certificate": signed["certificate"] + "\n" + signed["issuing_ca"]}
    )
    leaf_issuer = next(issuer for issuer, key in imported["mapping"].items() if key)
    admin.write("pki_int/config/issuers", {"default": leaf_issuer})


def root_names(identity: Identity) -> set[str]:
    roots = x509.load_pem_x509_certificates(identity.roots_pem)
    return {root.subject.rfc4514_string() for root in roots}


def test_a_new_root_comes_and_the_old_one_goes_without_a_refused_handshake(server: OpenBao) -> None:
    issuer = Issuer(server)
    services = {name: issuer.renew(name) for name in SERVICES}

    def all_trust_all() -> bool:
        return all(trusts(one, other) for one in services.values() for other in services.values() if one is not other)

    def learn() -> None:
        bundle = issuer.trust.load()
        for name, identity in services.items():
            services[name] = Identity(identity.key_pem, identity.chain_pem, bundle.roots_pem.encode())

    assert all_trust_all()
    second_root(issuer.admin)
    issuer.trust.refresh()
    learn()
    assert root_names(services["features"]) == {"CN=Hedgerow root", "CN=Hedgerow root 2"}
    second_intermediate(issuer.admin)
    order = list(SERVICES)
    random.Random(6).shuffle(order)
    for name in order:
        services[name] = issuer.renew(name)
        assert all_trust_all(), f"after {name} of {order}"
    old = next(name for name in issuer.vault.list_keys("pki_root/issuers") if name != _issuer_id(issuer, "root-2"))
    issuer.admin._call("delete", f"pki_root/issuer/{old}")
    bundle, held = issuer.trust.refresh()
    assert (len(bundle.roots), len(held)) == (2, 1), "a live certificate may still chain to the first root"
    assert all_trust_all()
    issuer.clock.offset = dt.timedelta(minutes=61)
    bundle, held = issuer.trust.refresh()
    assert (len(bundle.roots), held) == (1, [])
    learn()
    assert root_names(services["features"]) == {"CN=Hedgerow root 2"}
    assert all_trust_all()


def _issuer_id(issuer: Issuer, name: str) -> str:
    return str(issuer.vault.read(f"pki_root/issuer/{name}")["issuer_id"])


def test_the_handshake_probe_sees_a_stranger(server: OpenBao) -> None:
    issuer = Issuer(server)
    good = issuer.renew("features")
    other_root = x509.load_pem_x509_certificate(server.bootstrap.ca_file.read_bytes())
    stranger = Identity(good.key_pem, good.chain_pem, other_root.public_bytes(serialization.Encoding.PEM))
    assert trusts(good, good)
    assert not trusts(stranger, good)


# VLT-07: sealed, unreachable and back --------------------------------------------------------------------------------


def test_sealed_is_told_from_unreachable_and_it_recovers_unaided(tmp_path: Path) -> None:
    server = support.make(tmp_path)
    process = support.start(server)
    try:
        keys = KeyRing(Vault(server.settings("secrets")))
        plaintext, wrapped = keys.create_data_key("keys/features-sealed")
        Vault(server.settings("admin")).write("sys/seal")
        with pytest.raises(VaultSealedError) as sealed:
            keys.unwrap("keys/features-sealed", wrapped)
        assert sealed.value.metadata == {"dependency": "vault", "state": "sealed"}
        assert server.state() == "sealed"
        support.stop(process)
        with pytest.raises(VaultUnreachableError) as away:
            keys.unwrap("keys/features-sealed", wrapped)
        assert away.value.metadata["state"] == "unreachable"
        process = support.start(server)
        assert keys.unwrap("keys/features-sealed", wrapped) == plaintext
    finally:
        support.stop(process)
