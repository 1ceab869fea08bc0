"""Configuration of the secrets service."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

from pydantic import Field

from libs.config import ServiceConfig
from services.secrets.vault import VaultSettings


class SecretsConfig(ServiceConfig):
    """What the secrets service is told beside what every service is; see ``ServiceConfig``."""

    vault_address: str = Field(pattern="^https://", description="https://host:port of OpenBao or HashiCorp Vault.")
    vault_ca_file: Path = Field(description="PEM of the CA that signed its certificate.")
    vault_cert_file: Path = Field(description="PEM of the client certificate to log in with.")
    vault_key_file: Path = Field(description="PEM of its private key.")
    vault_role: str = Field(default="hedgerow-secrets", description="Role of the cert auth method.")
    vault_namespace: str = Field(default="", description="Namespace; empty for none.")
    vault_time_limit_seconds: float = Field(default=5.0, gt=0, le=60, description="For one call to the secret server.")
    vault_patience_seconds: float = Field(
        default=30.0, ge=0, description="How long a start waits for the secret server."
    )
    certificate_life_seconds: int = Field(default=3600, ge=60, le=86_400, description="Validity of a certificate.")
    trust_refresh_seconds: float = Field(
        default=30.0, gt=0, description="How often to follow the secret server's roots."
    )
    enrolment_rate_per_second: float = Field(default=20.0, gt=0, description="Calls per second on the enrolment port.")
    enrolment_burst: float = Field(default=40.0, ge=1, description="Calls the enrolment port takes at once.")
    services: tuple[str, ...] = Field(
        default=("ingestion", "features", "training", "inference", "secrets", "governance"),
        description="The services that can have a certificate.",
    )

    @property
    def certificate_life(self) -> dt.timedelta:
        """Validity of a certificate."""
        return dt.timedelta(seconds=self.certificate_life_seconds)

    def vault_settings(self) -> VaultSettings:
        """How to reach the secret server."""
        return VaultSettings(
            address=self.vault_address,
            ca_file=str(self.vault_ca_file),
            cert_file=str(self.vault_cert_file),
            key_file=str(self.vault_key_file),
            role=self.vault_role,
            namespace=self.vault_namespace,
            time_limit=self.vault_time_limit_seconds,
        )
