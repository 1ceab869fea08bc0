"""Configuration from ``HEDGEROW_…`` environment variables: frozen, and validated before anything starts.

Secrets never come by value: a variable names the file or the key that holds one.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class ServiceConfig(BaseSettings):
    """What every service is told."""

    model_config = SettingsConfigDict(env_prefix="HEDGEROW_", frozen=True, extra="ignore")

    service: str = Field(description="Name of the service, such as `features`.")
    listen: str = Field(description="host:port of the gRPC port.")
    transport: Literal["aio", "lane"] = Field(default="aio", description="What carries the calls of that port.")
    lane_listen: str = Field(default="", description="host:port of a second port on the fast lane, or none.")
    metrics_listen: str = Field(default="127.0.0.1:0", description="host:port of the Prometheus endpoint.")
    metrics_readers: frozenset[str] = Field(
        default=frozenset({"service/prometheus", "user/operator"}),
        description="Who may scrape that endpoint beside the service itself, as JSON.",
    )
    data_dir: Path = Field(description="Folder of the service's identity, data, policies and audit segments.")
    trust_dir: Path = Field(description="Folder with enrolment-ca.pem and policy-keys.json.")
    trust_domain: str = Field(default="hedgerow.local", description="SPIFFE trust domain.")
    secrets_address: str = Field(default="127.0.0.1:7440", description="host:port of the secrets service.")
    enrolment_address: str = Field(default="127.0.0.1:7441", description="host:port of the enrolment port.")
    enrolment_token_file: Path | None = Field(default=None, description="File with a single-use enrolment token.")
    peers: dict[str, str] = Field(default_factory=dict, description="host:port of each service, as JSON.")
    database_url: str = Field(
        default="",
        description="`postgresql://user@host:port/database?sslmode=verify-full&sslrootcert=/…`; empty for a file.",
        repr=False,
    )
    database_password_file: Path | None = Field(default=None, description="File with the password for `database_url`.")
    log_level: str = Field(default="INFO", pattern="^(DEBUG|INFO|WARNING|ERROR)$")
    trace_ratio: float = Field(default=0.01, ge=0, le=1, description="Share of traces begun here that are sampled.")
    rate_per_second: float = Field(default=2000.0, gt=0, description="Calls per second and principal.")
    rate_burst: float = Field(default=4000.0, ge=1, description="Calls a principal may make at once.")
    max_calls: int = Field(default=128, ge=1, description="Calls in progress before new ones are refused.")
    default_deadline_seconds: float = Field(default=30.0, gt=0, description="For protocols that send no deadline.")
    drain_notice_seconds: float = Field(default=0.2, ge=0, description="NOT_SERVING before new calls are refused.")
    drain_grace_seconds: float = Field(default=20.0, ge=0, description="Time for calls in progress at shutdown.")
    worker_threads: int = Field(default=8, ge=1, le=64, description="Threads for blocking work.")
    workers: int = Field(
        default=1, ge=1, description="Processes that share the ports, at most two a processor; features and inference."
    )
    worker_channel: int | None = Field(default=None, description="Set by the parent of several workers, not by hand.")

    @field_validator("workers")
    @classmethod
    def _check_workers(cls, workers: int) -> int:
        most = 2 * len(os.sched_getaffinity(0))
        if workers > most:
            raise ValueError(f"must be at most {most}, two for each processor of this machine")
        return workers


class LakeConfig(ServiceConfig):
    """What the services that write or read the lake are told; all of it empty for a local folder."""

    lake_endpoint: str = Field(
        default="", description="`https://host:port` of a store that speaks S3, if not Amazon's."
    )
    lake_region: str = Field(default="us-east-1", description="Region of S3.")
    lake_ca_file: Path | None = Field(
        default=None, description="CA of `lake_endpoint`; SSL_CERT_FILE must name it too."
    )
    lake_access_key: str = Field(default="", description="Access key of S3; empty for the platform's own identity.")
    lake_secret_key_file: Path | None = Field(
        default=None, description="File with the secret key of `lake_access_key`."
    )
    lake_account: str = Field(default="", description="Storage account of an `az://` location.")


Config = TypeVar("Config", bound=BaseSettings)


def load(cls: type[Config]) -> Config:
    """Return the configuration, or end the process with one line per fault and exit code 2."""
    try:
        return cls()
    except ValidationError as error:
        for fault in error.errors(include_input=False, include_url=False):
            name = "HEDGEROW_" + "_".join(str(part) for part in fault["loc"]).upper()
            print(f"configuration: {name}: {fault['msg']}", file=sys.stderr)
        raise SystemExit(2) from None
