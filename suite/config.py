"""Configuration of the local suite: ``suite.toml``, then ``HEDGEROW_…`` variables, then flags; validated at start."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SERVICES = ("secrets", "governance", "ingestion", "features", "training", "inference")
PEOPLE = ("ana", "ben", "creditapp", "mia", "pia", "operator")
EMBEDDED, DISTRIBUTED = "embedded", "distributed"
PROFILES: Mapping[str, Path] = {EMBEDDED: Path("var/local"), DISTRIBUTED: Path("var/distributed")}
"""The profiles, each with the folder it keeps everything in by default: what one has stored is of no use to the other."""
REPLICATED = ("features", "inference")
BACKING = ("postgres", "valkey", "seaweedfs")
METRICS_OFFSET = 100
SEAWEEDFS_PORTS = 10
DEFAULT_PORTS: Mapping[str, int] = {
    "openbao": 7470,
    "openbao_cluster": 7471,
    "secrets": 7440,
    "enrolment": 7441,
    "governance": 7442,
    "ingestion": 7443,
    "features": 7444,
    "training": 7445,
    "inference": 7446,
    "features_2": 7454,
    "inference_2": 7456,
    "postgres": 7460,
    "valkey": 7461,
    "seaweedfs": 7480,
}
_BASE = min(DEFAULT_PORTS.values())
_VAULT_FILES = ("ca_file", "secrets_cert_file", "secrets_key_file", "supervisor_cert_file", "supervisor_key_file")


class SuiteConfigError(Exception):
    """The configuration is wrong; the message names the setting and what is right."""


@dataclass(frozen=True)
class ExternalVault:
    """A secret server that the suite does not start: an OpenBao or HashiCorp Vault set up as in ``deploy/openbao``.

    Attributes:
        address: ``https://host:port``.
        ca_file: PEM of the CA of its certificate.
        secrets_cert_file: client certificate of the secrets service, with its key.
        supervisor_cert_file: client certificate of the supervisor, with its key.
    """

    address: str
    ca_file: str
    secrets_cert_file: str
    secrets_key_file: str
    supervisor_cert_file: str
    supervisor_key_file: str


@dataclass(frozen=True)
class SuiteConfig:
    """The whole of it.

    Attributes:
        folder: where everything of this suite lives.
        profile: ``embedded``, or ``distributed``: on shared stores, with two replicas of the services in REPLICATED.
        trust_domain: SPIFFE trust domain.
        ports: by use; metrics ports are ``METRICS_OFFSET`` above those of the services.
        vault: None for an OpenBao that the suite starts.
        environment: more variables for the services.
        services: which of the services to run, in the order of their start.

    An instance is one process of a service: ``features`` and, as its second replica, ``features-2``.
    """

    folder: Path
    profile: str = "embedded"
    trust_domain: str = "hedgerow.local"
    ports: Mapping[str, int] = field(default_factory=lambda: dict(DEFAULT_PORTS))
    vault: ExternalVault | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    services: Sequence[str] = SERVICES

    @property
    def backing(self) -> Sequence[str]:
        """The backing services to run."""
        return BACKING if self.profile == DISTRIBUTED else ()

    def replicas(self, service: str) -> list[str]:
        """The instances of a service."""
        is_replicated = self.profile == DISTRIBUTED and service in REPLICATED
        return [service, f"{service}-2"] if is_replicated else [service]

    @property
    def instances(self) -> list[str]:
        """The instances of the services to run, in the order of their start."""
        return [instance for service in self.services for instance in self.replicas(service)]

    def service_folder(self, instance: str) -> Path:
        """The folder of one instance."""
        return self.folder / instance

    def shared_folder(self, service: str) -> Path:
        """The folder that the replicas of a service share."""
        return self.folder / "shared" / service

    def port(self, instance: str) -> int:
        """The gRPC port of an instance."""
        return self.ports[instance.replace("-", "_")]

    def address(self, use: str) -> str:
        """``host:port`` of a use; of a service with replicas, those of all with commas between them."""
        return ",".join(f"127.0.0.1:{self.port(instance)}" for instance in self.replicas(use))

    def metrics_port(self, instance: str) -> int:
        """The Prometheus port of an instance."""
        return self.port(instance) + METRICS_OFFSET

    def all_ports(self) -> dict[str, int]:
        """Every port that must be free, by use."""
        own = [] if self.vault else ["openbao", "openbao_cluster"]
        instances = [instance.replace("-", "_") for instance in self.instances]
        ports = {use: self.ports[use] for use in (*own, "enrolment", *self.backing, *instances)}
        if "seaweedfs" in self.backing:
            more = range(1, SEAWEEDFS_PORTS)
            ports |= {f"seaweedfs (and {place} more)": self.ports["seaweedfs"] + place for place in more}
        return ports | {f"{use} metrics": self.ports[use] + METRICS_OFFSET for use in instances}


def service_of(instance: str) -> str:
    """Return the service that an instance is of."""
    return instance.removesuffix("-2")


def load_config(
    *,
    folder: Path | None = None,
    profile: str | None = None,
    port_base: int | None = None,
    ports: Mapping[str, int] | None = None,
    only: Sequence[str] = (),
    file: Path = Path("suite.toml"),
    environment: Mapping[str, str] = os.environ,
) -> SuiteConfig:
    """Return the configuration.

    Args:
        folder: flag ``--dir``.
        profile: flag ``--profile``.
        port_base: flag ``--port-base``: the lowest port; all defaults move with it.
        ports: flags ``--port NAME=NUMBER``.
        only: flags ``--only NAME``: run these services and secrets, which all need.
        file: the configuration file; need not exist.
        environment: of the process.

    Raises:
        SuiteConfigError: a setting is unknown or wrong.
    """
    content = _read(file)
    suite = content.get("suite", {})
    _check_names("suite", suite, ("dir", "profile", "trust_domain", "port_base"))
    base = (
        port_base
        if port_base is not None
        else _number("port_base", environment.get("HEDGEROW_PORT_BASE", suite.get("port_base", _BASE)))
    )
    chosen = {use: port - _BASE + base for use, port in DEFAULT_PORTS.items()}
    _check_names("ports", content.get("ports", {}), DEFAULT_PORTS)
    _check_names("--port", ports or {}, DEFAULT_PORTS)
    _check_names("--only", dict.fromkeys(only), SERVICES)
    chosen |= {use: _number(f"ports.{use}", port) for use, port in content.get("ports", {}).items()}
    for use in DEFAULT_PORTS:
        variable = f"HEDGEROW_PORT_{use.upper()}"
        if variable in environment:
            chosen[use] = _number(variable, environment[variable])
    chosen |= ports or {}
    profile = profile or environment.get("HEDGEROW_PROFILE") or suite.get("profile", EMBEDDED)
    if profile not in PROFILES:
        raise SuiteConfigError(f"profile {profile!r} is unknown; choose one of {', '.join(PROFILES)}")
    config = SuiteConfig(
        folder=Path(folder or environment.get("HEDGEROW_DIR") or suite.get("dir") or PROFILES[profile]).resolve(),
        profile=profile,
        trust_domain=suite.get("trust_domain", "hedgerow.local"),
        ports=chosen,
        vault=_vault(content.get("vault")),
        services=[name for name in SERVICES if not only or name in only or name == "secrets"],
        environment={str(key): str(value) for key, value in content.get("environment", {}).items()},
    )
    _check_distinct(config.all_ports())
    return config


def _read(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_text())
    except FileNotFoundError:
        return {}
    except tomllib.TOMLDecodeError as error:
        raise SuiteConfigError(f"{file} is not TOML: {error}") from error
    _check_names(str(file), content, ("suite", "ports", "vault", "environment"))
    return content


def _vault(content: Mapping[str, Any] | None) -> ExternalVault | None:
    if not content:
        return None
    _check_names("vault", content, ("address", *_VAULT_FILES))
    missing = [name for name in ("address", *_VAULT_FILES) if not content.get(name)]
    if missing:
        raise SuiteConfigError(f"[vault] lacks {', '.join(missing)}")
    for name in _VAULT_FILES:
        if not Path(content[name]).is_file():
            raise SuiteConfigError(f"[vault] {name}: there is no file {content[name]}")
    if not str(content["address"]).startswith("https://"):
        raise SuiteConfigError("[vault] address: expected https://host:port")
    return ExternalVault(**{key: str(value) for key, value in content.items()})


def _check_names(where: str, found: Mapping[str, Any], known: Any) -> None:
    unknown = sorted(set(found) - set(known))
    if unknown:
        raise SuiteConfigError(f"{where}: {unknown[0]!r} is unknown; known are {', '.join(known)}")


def _number(name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if not 0 < number < 65_536:
        raise SuiteConfigError(f"{name}: expected a port from 1 to 65535, not {value!r}")
    return number


def _check_distinct(ports: Mapping[str, int]) -> None:
    seen: dict[int, str] = {}
    for use, port in ports.items():
        if port in seen:
            raise SuiteConfigError(f"port {port} is meant for both {seen[port]} and {use}; give one of them another")
        if not 0 < port < 65_536:
            raise SuiteConfigError(f"{use}: {port} is not a port from 1 to 65535")
        seen[port] = use
