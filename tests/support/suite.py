"""A local suite for the integration tests: OpenBao, the secrets service, and what else a test names."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient, enrol
from hedgerow.identity import Identity, IdentityFolder
from hedgerow.secrets.v1 import secrets_pb2
from services.secrets.attestation import RECORD_PREFIX
from services.secrets.vault import Vault, VaultSettings
from suite.bootstrap_ca import BootstrapFolder
from suite.config import SuiteConfig, load_config

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
_ENROLMENT = secrets_pb2.DESCRIPTOR.services_by_name["EnrolmentService"]


class RunningSuite:
    """A suite under a supervisor of its own.

    Attributes:
        config: its ports and folder.
    """

    def __init__(self, folder: Path, services: list[str], file: Path | None = None) -> None:
        """Choose free ports.

        Args:
            folder: of the suite.
            services: what to run ; ``secrets`` alone for that and OpenBao.
            file: a ``suite.toml``; none by default.
        """
        base, file = free_port_base(), file or folder / "none.toml"
        self._flags = ["--dir", str(folder), "--port-base", str(base), "--config", str(file)]
        for service in services:
            self._flags += ["--only", service]
        self.config: SuiteConfig = load_config(folder=folder, port_base=base, only=services, file=file, environment={})

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``python -m suite up`` in the foreground and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "suite", "up", *self._flags, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=_environment(),
        )  # fmt: skip

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``python -m suite``."""
        return subprocess.run(
            [sys.executable, "-m", "suite", *arguments, *self._flags],
            capture_output=True, text=True, timeout=START_SECONDS, cwd=ROOT, env=_environment(), check=False,
        )  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Return what ``status --json`` says."""
        report: dict[str, Any] = json.loads(self.run("status", "--json").stdout)
        return report

    def log(self, service: str) -> str:
        """Return a service's log."""
        return (self.config.folder / "logs" / f"{service}.log").read_text()

    def vault(self, who: str) -> Vault:
        """Return a client of the secret server as ``secrets``, ``supervisor`` or ``admin``."""
        bootstrap = BootstrapFolder(self.config.folder / "bootstrap", self.config.trust_domain)
        cert_file, key_file = bootstrap.certificate(who)
        address = f"https://{self.config.address('openbao')}"
        return Vault(VaultSettings(address, str(bootstrap.ca_file), str(cert_file), str(key_file), f"hedgerow-{who}"))

    def token(self, service: str) -> str:
        """Return a fresh enrolment token."""
        vault = self.vault("supervisor")
        try:
            return vault.wrapped_record(RECORD_PREFIX + service, ttl_seconds=60)
        finally:
            vault.close()

    async def enrol(self, method: str, **credential: str) -> Identity:
        """Return an identity by ``Enroll`` (token) or ``Login`` (username, password)."""
        return await enrol(
            self.config.address("enrolment"),
            f"secrets.{self.config.trust_domain}",
            (self.config.folder / "trust" / "enrolment-ca.pem").read_bytes(),
            _ENROLMENT.methods_by_name[method],
            **credential,
        )

    async def log_in(self, person: str) -> Identity:
        """Return the identity of a person."""
        password = (self.config.folder / "users" / person / "password").read_text()
        return await self.enrol("Login", username=person, password=password)

    @contextlib.asynccontextmanager
    async def client(self, folder: Path, identity: Identity, service: str, descriptor: ServiceDescriptor) -> Any:
        """Yield a client of a service with an identity, which is kept in ``folder``."""
        store = IdentityFolder(folder)
        store.save(identity)
        channel = RotatingChannel(self.config.address(service), f"{service}.{self.config.trust_domain}", store)
        try:
            yield ServiceClient(channel, descriptor)
        finally:
            await channel.close()


@contextlib.contextmanager
def running_suite(folder: Path, services: list[str], file: Path | None = None) -> Iterator[RunningSuite]:
    """Start a suite with these services and secrets, and stop it at the end."""
    suite = RunningSuite(folder, services, file)
    result = suite.run("up", "--detach")
    try:
        if result.returncode:
            raise RuntimeError(f"the suite did not start:\n{result.stdout}\n{result.stderr}")
        yield suite
    finally:
        suite.run("down")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_")}


def free_port_base() -> int:
    """Return a base whose ports were all free a moment ago."""
    for _ in range(100):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            base = int(listener.getsockname()[1])
        if base < 65_000 and all(_is_free(base + offset) for offset in (*range(32), *range(100, 110))):
            return base
    raise RuntimeError("no free range of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
