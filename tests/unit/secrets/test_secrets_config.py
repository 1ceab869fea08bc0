"""What the secrets service refuses to be told."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from services.secrets.config import SecretsConfig


@pytest.mark.parametrize("name", ["feature-store", "-x", "Features", "features/x", ""])
def test_no_service_has_a_name_that_could_own_the_keys_of_another(name: str) -> None:
    """``keys/feature-store-sql`` would belong to a service ``feature``."""
    paths = dict.fromkeys(("data_dir", "trust_dir", "vault_ca_file", "vault_cert_file", "vault_key_file"), Path("x"))
    told = {"service": "secrets", "listen": "127.0.0.1:0", "vault_address": "https://127.0.0.1:1", **paths}
    assert SecretsConfig(**told, services=("features", "secrets")).services == ("features", "secrets")
    with pytest.raises(ValidationError):
        SecretsConfig(**told, services=("features", name))
