"""How the secrets service is told to log in: by a certificate or by a token, never by both or neither."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from services.secrets.config import SecretsConfig
from services.secrets.service_account import AccountSettings

BASE = {"service": "secrets", "listen": "127.0.0.1:0", "data_dir": "d", "trust_dir": "t"}
VAULT = {"vault_address": "https://vault.test:8200", "vault_ca_file": "ca.pem"}
CERTIFICATE = {"vault_cert_file": "cert.pem", "vault_key_file": "cert.key"}
TOKEN = {"vault_token_file": "token", "vault_auth_mount": "kubernetes"}


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HEDGEROW_"):
            monkeypatch.delenv(name)


def config(**more: object) -> SecretsConfig:
    return SecretsConfig.model_validate(BASE | VAULT | more)


def test_by_a_certificate_workloads_enrol_by_single_use_tokens() -> None:
    found = config(**CERTIFICATE)
    settings = found.vault_settings()
    assert (settings.cert_file, settings.key_file, settings.token_file) == ("cert.pem", "cert.key", "")
    assert settings.auth_mount == "cert"
    assert found.accounts() is None


def test_by_a_token_of_the_platform() -> None:
    found = config(**TOKEN, enrolment_account_mount="kubernetes")
    settings = found.vault_settings()
    assert (settings.cert_file, settings.key_file, settings.token_file) == ("", "", "token")
    assert found.accounts() == AccountSettings("kubernetes", "hedgerow-enrolment", "hedgerow")
    assert found.vault_token_file == Path("token")


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"vault_cert_file": "cert.pem"},
        CERTIFICATE | TOKEN,
        CERTIFICATE | {"vault_auth_mount": "kubernetes"},
        {"vault_token_file": "token"},
    ],
)
def test_anything_else_is_said_at_start(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="vault_"):
        config(**wrong)
