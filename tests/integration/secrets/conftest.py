"""The domain of the secrets service against the session's OpenBao."""

import datetime as dt
from collections.abc import Iterator

import pytest

from services.secrets.pki import CertificateAuthority
from services.secrets.vault import Vault
from suite.config import SERVICES
from suite.openbao import OpenBao
from tests.support.openbao import TRUST_DOMAIN


@pytest.fixture(scope="session")
def vault(openbao: OpenBao) -> Iterator[Vault]:
    """The client of the secrets service."""
    client = Vault(openbao.settings("secrets"))
    yield client
    client.close()


@pytest.fixture(scope="session")
def supervisor(openbao: OpenBao) -> Iterator[Vault]:
    """The client of the supervisor."""
    client = Vault(openbao.settings("supervisor"))
    yield client
    client.close()


@pytest.fixture(scope="session")
def authority(vault: Vault) -> CertificateAuthority:
    """The certificate authority, reconciled."""
    result = CertificateAuthority(vault, trust_domain=TRUST_DOMAIN, services=SERVICES, life=dt.timedelta(hours=1))
    result.reconcile()
    return result
