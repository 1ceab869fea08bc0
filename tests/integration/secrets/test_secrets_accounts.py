"""Service-account tokens, judged by a real OpenBao with keys made here, set up as ``docs/guide/kubernetes.md`` says."""

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import jwt
import pytest

from hedgerow.errors import UnauthenticatedError
from hedgerow.identity import new_key_and_csr
from services.secrets.attestation import Attestor
from services.secrets.issuance import Issuance
from services.secrets.pki import CertificateAuthority
from services.secrets.service_account import AccountSettings, ServiceAccounts
from services.secrets.trust_store import TrustStore
from services.secrets.vault import Vault, VaultRefusedError, VaultSettings, VaultUnreachableError
from suite.openbao import OpenBao
from tests.support.cluster import ISSUER, Cluster, reviewing

ACCOUNTS = AccountSettings("jwt-cluster", "hedgerow-enrolment", "hedgerow")
REVIEWED = AccountSettings("kubernetes", "hedgerow-enrolment", "hedgerow")


@pytest.fixture(scope="module")
def cluster(openbao: OpenBao) -> Iterator[Cluster]:
    issuer = Cluster()
    admin = Vault(openbao.settings("admin"))
    mount = ACCOUNTS.mount
    admin.write(f"sys/auth/{mount}", {"type": "jwt"})
    admin.write(f"auth/{mount}/config", {"jwt_validation_pubkeys": [issuer.public_pem], "bound_issuer": ISSUER})
    common = {
        "role_type": "jwt", "user_claim": "sub", "expiration_leeway": -1, "clock_skew_leeway": 10,
        "claim_mappings": {
            "/kubernetes.io/serviceaccount/name": "service_account_name",
            "/kubernetes.io/namespace": "service_account_namespace",
        },
    }  # fmt: skip
    enrolment = {
        "bound_audiences": ["hedgerow"], "bound_claims": {"/kubernetes.io/namespace": "hedgerow"},
        "token_type": "batch", "token_ttl": "60s", "token_policies": [], "token_no_default_policy": True,
    }  # fmt: skip
    admin.write(f"auth/{mount}/role/hedgerow-enrolment", common | enrolment)
    # As wide as a careless operator might make it.
    admin.write(f"auth/{mount}/role/wide", common | enrolment | {"bound_claims": {}})
    secrets = {
        "bound_audiences": ["openbao"], "bound_subject": "system:serviceaccount:hedgerow:secrets",
        "token_policies": ["hedgerow-secrets"], "token_no_default_policy": True, "token_ttl": "15m", "token_max_ttl": "1h",
    }  # fmt: skip
    admin.write(f"auth/{mount}/role/hedgerow-secrets", common | secrets)
    yield issuer
    admin.close()


def refused(attestor: ServiceAccounts, token: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        attestor.service_of(token)
    assert caught.value.reason == "CREDENTIAL_REFUSED"
    assert not token or token not in str(caught.value)


def test_a_pod_is_the_service_of_its_account(vault: Vault, cluster: Cluster) -> None:
    attestor = ServiceAccounts(vault, ACCOUNTS)
    token = cluster.token("features")
    assert attestor.service_of(token) == "features"
    # A restarted container shows the same token again.
    assert attestor.service_of(token) == "features"


def test_tokens_that_do_not_hold_are_refused(vault: Vault, cluster: Cluster) -> None:
    attestor = ServiceAccounts(vault, ACCOUNTS)
    good = cluster.token("features")
    header, claims, signature = good.split(".")
    for token in (
        Cluster().token("features"),
        cluster.token("features", aud=["https://kubernetes.default.svc.cluster.local"]),
        cluster.token("features", aud=["openbao"]),
        cluster.token("features", iss="https://elsewhere.example"),
        cluster.token("features", life=-60),
        cluster.token("features", "billing"),
        f"{header}.{cluster.token('ingestion').split('.')[1]}.{signature}",
        f"{header}.{claims}.",
        jwt.encode({"sub": "x"}, None, algorithm="none"),
        "", "a.b.c", "s.AAAAAAAAAAAAAAAAAAAAAAAA", "../../sys", "x" * 9000,
    ):  # fmt: skip
        refused(attestor, token)


def test_a_role_that_is_too_wide_lets_no_other_namespace_in(vault: Vault, cluster: Cluster) -> None:
    attestor = ServiceAccounts(vault, AccountSettings(ACCOUNTS.mount, "wide", "hedgerow"))
    assert attestor.service_of(cluster.token("features")) == "features"
    refused(attestor, cluster.token("features", "billing"))


def test_an_account_gets_the_certificate_of_its_service_and_of_no_other(
    vault: Vault, authority: CertificateAuthority, cluster: Cluster
) -> None:
    trust = TrustStore(vault, authority, lambda: dt.datetime.now(dt.UTC))
    issuance = Issuance(authority, Attestor(vault, ServiceAccounts(vault, ACCOUNTS)), trust)
    csr = new_key_and_csr()[1]
    certificate, _ = issuance.enrol(cluster.token("features"), csr)
    assert certificate.spiffe_id == "spiffe://hedgerow.local/service/features"
    # The secrets service enrols itself; an account that is no service is nobody.
    for account in ("secrets", "default", "prometheus"):
        with pytest.raises(UnauthenticatedError):
            issuance.enrol(cluster.token(account), csr)


def test_the_secrets_service_logs_in_by_the_token_of_its_pod(
    openbao: OpenBao, cluster: Cluster, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    settings = VaultSettings(
        openbao.address, str(openbao.bootstrap.ca_file), "", "", role="hedgerow-secrets",
        token_file=str(file), auth_mount=ACCOUNTS.mount,
    )  # fmt: skip
    client = Vault(settings)
    with pytest.raises(VaultUnreachableError):
        client.list_keys("pki_root/issuers")
    # A token for enrolment does not open the secret server, nor does that of another service.
    for wrong in (cluster.token("secrets"), cluster.token("features", aud=["openbao"])):
        file.write_text(wrong)
        with pytest.raises(VaultRefusedError):
            client.list_keys("pki_root/issuers")
    file.write_text(cluster.token("secrets", aud=["openbao"]) + "\n")
    assert client.list_keys("pki_root/issuers")
    client.close()


# By TokenReview -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reviewed(openbao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    issuer = Cluster()
    admin = Vault(openbao.settings("admin"))
    with reviewing(issuer, tmp_path_factory.mktemp("cluster")) as (address, ca_pem):
        admin.write(f"sys/auth/{REVIEWED.mount}", {"type": "kubernetes"})
        admin.write(
            f"auth/{REVIEWED.mount}/config",
            {"kubernetes_host": address, "kubernetes_ca_cert": ca_pem, "token_reviewer_jwt": issuer.token("openbao")},
        )
        role = {
            "bound_service_account_names": ["governance", "ingestion", "features", "training", "inference"],
            "bound_service_account_namespaces": ["hedgerow"], "audience": "hedgerow",
            "token_type": "batch", "token_ttl": "60s", "token_policies": [], "token_no_default_policy": True,
        }  # fmt: skip
        admin.write(f"auth/{REVIEWED.mount}/role/hedgerow-enrolment", role)
        secrets = {
            "bound_service_account_names": ["secrets"], "bound_service_account_namespaces": ["hedgerow"],
            "audience": "openbao", "token_policies": ["hedgerow-secrets"], "token_no_default_policy": True,
            "token_ttl": "15m", "token_max_ttl": "1h",
        }  # fmt: skip
        admin.write(f"auth/{REVIEWED.mount}/role/hedgerow-secrets", secrets)
        yield issuer
    admin.close()


def test_the_cluster_itself_is_asked_for_the_audience(vault: Vault, reviewed: Cluster) -> None:
    attestor = ServiceAccounts(vault, REVIEWED)
    assert attestor.service_of(reviewed.token("inference")) == "inference"
    assert reviewed.reviewed[-1] == ["hedgerow"]


def test_the_token_of_a_pod_that_is_gone_is_refused_at_once(vault: Vault, reviewed: Cluster) -> None:
    attestor = ServiceAccounts(vault, REVIEWED)
    token = reviewed.token("training")
    assert attestor.service_of(token) == "training"
    reviewed.gone.add("training-0")
    refused(attestor, token)


def test_a_review_that_refuses_is_a_refusal(vault: Vault, reviewed: Cluster) -> None:
    attestor = ServiceAccounts(vault, REVIEWED)
    for token in (
        Cluster().token("features"),
        reviewed.token("features", aud=["openbao"]),
        reviewed.token("features", life=-60),
        reviewed.token("features", "billing"),
        reviewed.token("default"),
    ):
        refused(attestor, token)


def test_the_secrets_service_logs_in_by_review_too(openbao: OpenBao, reviewed: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(reviewed.token("secrets", aud=["openbao"]))
    ca = str(openbao.bootstrap.ca_file)
    settings = VaultSettings(
        openbao.address, ca, "", "", role="hedgerow-secrets", token_file=str(file), auth_mount=REVIEWED.mount
    )
    client = Vault(settings)
    assert client.list_keys("pki_root/issuers")
    client.close()
