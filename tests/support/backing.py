"""Real backing services for tests: PostgreSQL, Valkey and SeaweedFS from their wheels, over TLS."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from suite.backing import Backing, TlsFiles
from suite.backing.postgres import Postgres
from suite.backing.seaweedfs import SeaweedFS
from suite.backing.valkey import Valkey
from suite.bootstrap_ca import BootstrapFolder
from tests.support.openbao import TRUST_DOMAIN, _die_with_parent, free_port, stop

START_SECONDS = 90.0


def tls_files(folder: Path) -> TlsFiles:
    """Return a server's certificate of a CA of its own."""
    bootstrap = BootstrapFolder(folder, TRUST_DOMAIN)
    bootstrap.ensure()
    certificate, key = bootstrap.certificate("listener")
    return TlsFiles(certificate, key, bootstrap.ca_file)


def start(backing: Backing, folder: Path) -> subprocess.Popen[bytes]:
    """Start a server and return when it is healthy."""
    backing.prepare()
    log = folder / f"{backing.name}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            backing.command(),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env=backing.environment(),
            preexec_fn=_die_with_parent,
        )
    deadline = time.monotonic() + START_SECONDS
    while not backing.is_healthy():
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            raise RuntimeError(f"{backing.name} did not start:\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)
    return process


@contextlib.contextmanager
def running(backing: Backing, folder: Path) -> Iterator[None]:
    """Keep a server up."""
    process = start(backing, folder)
    try:
        yield
    finally:
        stop(process)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """PostgreSQL as the distributed profile starts it."""
    folder = tmp_path_factory.mktemp("postgres")
    server = Postgres(folder / "server", free_port(), tls_files(folder / "tls"))
    with running(server, folder):
        yield server


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """Valkey as the distributed profile starts it."""
    folder = tmp_path_factory.mktemp("valkey")
    server = Valkey(folder / "server", free_port(), tls_files(folder / "tls"), memory_mib=64)
    with running(server, folder):
        yield server


@pytest.fixture(scope="session")
def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SeaweedFS]:
    """SeaweedFS as the distributed profile starts it."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    server = SeaweedFS(folder / "server", free_ports(8), tls_files(folder / "tls"))
    with running(server, folder):
        yield server


def free_ports(count: int) -> int:
    """Return the first of so many ports in a row that were free a moment ago."""
    for first in range(21_000, 32_000, count):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in range(first, first + count):
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return first
    raise RuntimeError("no ports are free")
