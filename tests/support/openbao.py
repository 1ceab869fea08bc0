"""One real OpenBao for the integration tests.

The ``openbao`` fixture lives for the session and is shared; tests keep apart by the names they use. ``running`` starts
another one where a test must stop or seal it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from suite.bootstrap_ca import BootstrapFolder
from suite.openbao import OpenBao

TRUST_DOMAIN = "hedgerow.local"
START_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


@contextlib.contextmanager
def running(folder: Path) -> Iterator[OpenBao]:
    """Start an OpenBao of its own under ``folder`` and stop it at the end."""
    server = make(folder)
    process = start(server)
    try:
        yield server
    finally:
        stop(process)


def make(folder: Path) -> OpenBao:
    """Name the parts of an OpenBao under ``folder``, on free ports; nothing starts yet."""
    bootstrap = BootstrapFolder(folder / "bootstrap", TRUST_DOMAIN)
    return OpenBao(folder / "openbao", bootstrap, port=free_port(), cluster_port=free_port())


def start(server: OpenBao) -> subprocess.Popen[bytes]:
    """Start the server and return when it is active and complete."""
    server.prepare()
    log = server.folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            server.command(),
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"]},
            cwd=server.folder,
            preexec_fn=_die_with_parent,
        )
    deadline = time.monotonic() + START_SECONDS
    while not (server.state() == "active" and server.prove()):
        if process.poll() is not None or time.monotonic() > deadline:
            stop(process)
            raise RuntimeError(f"OpenBao did not start:\n{log.read_text()[-3000:]}")
        time.sleep(0.05)
    return process


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server and wait for its end."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)


def free_port() -> int:
    """Return a port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@pytest.fixture(scope="session")
def openbao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    """The session's OpenBao, initialised as the suite does it."""
    with running(tmp_path_factory.mktemp("openbao")) as server:
        yield server
