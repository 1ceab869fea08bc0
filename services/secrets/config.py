"""Configuration of the secrets service."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from libs.config import ServiceConfig
from services.secrets.service_account import AccountSettings
from services.secrets.vault import VaultSettings

# A key belongs to the service before the first "-" of its name, so no service may have one in its own.
ServiceName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$", max_length=31)]


class SecretsConfig(ServiceConfig):
    """What the secrets service is told beside what every service is; see ``ServiceConfig``."""

    vault_address: str = Field(pattern="^https://", description="https://host:port of OpenBao or HashiCorp Vault.")
    vault_ca_file: Path = Field(description="PEM of the CA that signed its certificate.")
    vault_cert_file: Path | None = Field(default=None, description="PEM of the client certificate to log in with.")
    vault_key_file: Path | None = Field(default=None, description="PEM of its private key.")
    vault_token_file: Path | None = Field(
        default=None, description="Instead of a certificate: the platform's token (JWT) to log in with."
    )
    vault_auth_mount: str = Field(
        default="cert", description="Auth method: `cert`; for a token a jwt or kubernetes one."
    )
    vault_role: str = Field(default="hedgerow-secrets", description="Role of that auth method.")
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
    enrolment_account_mount: str = Field(
        default="",
        description="Auth method (jwt or kubernetes) that judges service-account tokens; empty for single-use tokens.",
    )
    enrolment_account_role: str = Field(default="hedgerow-enrolment", description="Role of that auth method.")
    enrolment_account_namespace: str = Field(default="hedgerow", description="Whose accounts stand for services.")
    services: tuple[ServiceName, ...] = Field(
        default=("ingestion", "features", "training", "inference", "secrets", "governance"),
        description="The services that can have a certificate.",
    )

    @model_validator(mode="after")
    def _check_credential(self) -> Self:
        by_certificate = self.vault_cert_file is not None and self.vault_key_file is not None
        if by_certificate == (self.vault_token_file is not None):
            raise ValueError("set vault_cert_file and vault_key_file, or vault_token_file")
        if by_certificate != (self.vault_auth_mount == "cert"):
            raise ValueError("vault_auth_mount is `cert` with a certificate, and names another method with a token")
        return self

    def accounts(self) -> AccountSettings | None:
        """Which service accounts may enrol; None where workloads enrol by single-use tokens."""
        if not self.enrolment_account_mount:
            return None
        return AccountSettings(
            self.enrolment_account_mount, self.enrolment_account_role, self.enrolment_account_namespace
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
            cert_file=str(self.vault_cert_file or ""),
            key_file=str(self.vault_key_file or ""),
            role=self.vault_role,
            namespace=self.vault_namespace,
            time_limit=self.vault_time_limit_seconds,
            token_file=str(self.vault_token_file or ""),
            auth_mount=self.vault_auth_mount,
        )
