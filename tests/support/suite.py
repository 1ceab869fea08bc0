"""The suite for tests: OpenBao, the secrets service, and what else a test names, under a real supervisor."""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient, enrol
from hedgerow.identity import Identity, IdentityFolder
from hedgerow.sdk import Context, Hedgerow
from hedgerow.secrets.v1 import secrets_pb2
from services.secrets.attestation import RECORD_PREFIX
from services.secrets.vault import Vault, VaultSettings
from suite.bootstrap_ca import BootstrapFolder
from suite.config import SERVICES, SuiteConfig, load_config
from suite.run_file import RunFolder, RunState

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 120
STOP_SECONDS = 60
_LAUNCHER = ROOT / "suite" / "launch.py"
_ENROLMENT = secrets_pb2.DESCRIPTOR.services_by_name["EnrolmentService"]


class RunningSuite:
    """A suite under a supervisor of its own.

    Attributes:
        config: its ports and folder.
        clients: the folder with the identities of those who call it.
    """

    def __init__(self, folder: Path, services: Sequence[str], file: Path | None = None) -> None:
        """Choose free ports.

        Args:
            folder: of the suite.
            services: what to run; ``secrets`` alone for that and OpenBao, nothing for all.
            file: a ``suite.toml``; none by default.
        """
        base, file = free_port_base(), file or folder / "none.toml"
        self._flags = ["--dir", str(folder), "--port-base", str(base), "--config", str(file)]
        for service in services:
            self._flags += ["--only", service]
        self.config: SuiteConfig = load_config(folder=folder, port_base=base, only=services, file=file, environment={})
        self.clients = folder.with_name(f"{folder.name}-clients")

    # ---- the supervisor

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``python -m suite up`` in the foreground and return at once."""
        return subprocess.Popen(
            [sys.executable, "-m", "suite", "up", *self._flags, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=_environment(),
        )  # fmt: skip

    def start_bound(self) -> subprocess.Popen[bytes]:
        """Start it in the foreground and return when it serves; it dies with this process, whatever ends that.

        Raises:
            RuntimeError: it does not come to serve; the message holds what it said.
        """
        self.config.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        log = self.config.folder / "supervisor.out"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()),
                 sys.executable, "-m", "suite", "up", *self._flags],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=ROOT, env=_environment(),
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while not ((state := self._run().read()) and state.pid == process.pid and state.phase == "serving"):
            if process.poll() is not None or time.monotonic() > deadline:
                stop(process)
                raise RuntimeError(f"the suite did not start:\n{log.read_text()}")
            time.sleep(0.05)
        return process

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

    def state(self) -> RunState:
        """Return what the supervisor last wrote down."""
        state = self._run().read()
        if state is None:
            raise RuntimeError(f"no suite ever ran in {self.config.folder}")
        return state

    def restarts(self) -> dict[str, int]:
        """Return how often each service was started again."""
        return {name: service.restarts for name, service in self.state().services.items()}

    def log(self, service: str) -> str:
        """Return a service's log."""
        return (self.config.folder / "logs" / f"{service}.log").read_text()

    def _run(self) -> RunFolder:
        return RunFolder(self.config.folder / "run")

    # ---- identities

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

    def enrolment_roots(self) -> bytes:
        """Return the CA to trust on the enrolment port, in PEM."""
        return (self.config.folder / "trust" / "enrolment-ca.pem").read_bytes()

    async def enrol(self, method: str, **credential: str) -> Identity:
        """Return an identity by ``Enroll`` (token) or ``Login`` (username, password)."""
        return await enrol(
            self.config.address("enrolment"),
            self.server_name("secrets"),
            self.enrolment_roots(),
            _ENROLMENT.methods_by_name[method],
            **credential,
        )

    async def log_in(self, person: str) -> Identity:
        """Return the identity of a person."""
        return await self.enrol("Login", username=person, password=self._password_file(person).read_text())

    async def person(self, name: str) -> IdentityFolder:
        """Return a person's kept identity, after a login at first use."""
        folder = IdentityFolder(self.clients / "users" / name)
        if folder.load() is None:
            folder.save(await self.log_in(name))
        return folder

    async def workload(self, service: str) -> IdentityFolder:
        """Return a second identity of a service, got as the first one was: by an enrolment token."""
        folder = IdentityFolder(self.clients / "services" / service)
        if folder.load() is None:
            folder.save(await self.enrol("Enroll", token=self.token(service)))
        return folder

    def add_person(self, name: str) -> None:
        """Let one more person log in, as the supervisor does it; no policy knows them."""
        file = self._password_file(name)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        file.write_text(secrets.token_urlsafe(18))
        rights = {"token_policies": [], "token_no_default_policy": True, "token_type": "batch", "token_ttl": "60s"}
        vault = self.vault("supervisor")
        try:
            vault.write(f"auth/userpass/users/{name}", {"password": file.read_text(), **rights})
        finally:
            vault.close()

    def _password_file(self, person: str) -> Path:
        return self.config.folder / "users" / person / "password"

    # ---- calls

    def server_name(self, service: str) -> str:
        """Return the name in a service's certificate."""
        return f"{service}.{self.config.trust_domain}"

    def context(self) -> Context:
        """Return where the suite is, as the SDK wants it told."""
        addresses = {service: self.config.address(service) for service in SERVICES}
        context = Context(self.clients, addresses, self.config.address("enrolment"))
        context.save(self.enrolment_roots())
        return context

    async def connect(self, person: str, purpose: str = "") -> Hedgerow:
        """Return a person's connection; the caller closes it."""
        return Hedgerow.connect(await self.person(person), self.context().addresses, purpose=purpose)

    @contextlib.asynccontextmanager
    async def client(self, folder: Path, identity: Identity, service: str, descriptor: ServiceDescriptor) -> Any:
        """Yield a client of a service with an identity, which is kept in ``folder``."""
        store = IdentityFolder(folder)
        store.save(identity)
        channel = RotatingChannel(self.config.address(service), self.server_name(service), store)
        try:
            yield ServiceClient(channel, descriptor)
        finally:
            await channel.close()


@contextlib.contextmanager
def running_suite(folder: Path, services: Sequence[str], file: Path | None = None) -> Iterator[RunningSuite]:
    """Start a suite with these services and secrets, and stop it at the end."""
    suite = RunningSuite(folder, services, file)
    result = suite.run("up", "--detach")
    try:
        if result.returncode:
            raise RuntimeError(f"the suite did not start:\n{result.stdout}\n{result.stderr}")
        yield suite
    finally:
        suite.run("down")


@contextlib.contextmanager
def whole_suite(folder: Path, file: Path | None = None) -> Iterator[RunningSuite]:
    """Start everything, bound to the life of this process, and stop it at the end."""
    suite = RunningSuite(folder, [], file)
    process = suite.start_bound()
    try:
        yield suite
    finally:
        stop(process)


def stop(process: subprocess.Popen[Any]) -> None:
    """End a supervisor and wait until it has ended what it started."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment() -> dict[str, str]:
    # Services start as installed: without the settings of a suite around them, and with compiled modules kept.
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("HEDGEROW_") and name != "PYTHONDONTWRITEBYTECODE"
    }


def free_port_base() -> int:
    """Return a base whose ports were all free a moment ago, below those that outgoing connections take for themselves."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        base = random.randrange(10_000, min(first_outgoing, 65_000) - 200)
        if all(_is_free(base + offset) for offset in (*range(50), *range(100, 118))):
            return base
    raise RuntimeError("no free range of ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
