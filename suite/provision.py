"""What the suite needs before its services start: people, the pinned CA, enrolment tokens, the first policy bundle.

Everything is idempotent: what is there stays, what is missing is made. Passwords are written to a file before they are set,
so that an interrupted run leaves no person whose password nobody knows.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import secrets
from pathlib import Path
from typing import Any

from hedgerow.identity import TRUST_DOMAIN, IdentityFolder
from hedgerow.private_file import write_private
from libs.authz import compile_bundle, encode_bundle
from services.secrets.attestation import RECORD_PREFIX
from services.secrets.keys import KeyRing
from services.secrets.pki import read_roots
from services.secrets.vault import Vault, VaultPathError
from suite.config import PEOPLE, SERVICES, SuiteConfig, service_of

POLICIES = Path(__file__).resolve().parent.parent / "deploy" / "policies"
POLICY_KEY = "signingKeys/governance-policy"
TOKEN_SECONDS = 600
MARGIN = dt.timedelta(seconds=60)
_PASSWORD_BYTES = 18


class Provisioner:
    """Prepares one suite with the supervisor's credential. Its methods block and raise the errors of ``Vault``."""

    def __init__(self, config: SuiteConfig, vault: Vault, policies: Path = POLICIES) -> None:
        self._config = config
        self._vault = vault
        self._policies = policies
        self._trust = config.folder / "trust"
        # Of all services, whichever run.
        self._instances = [instance for service in SERVICES for instance in config.replicas(service)]

    def prepare(self) -> None:
        """Prepare everything but tokens."""
        self._config.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for instance in self._instances:
            self._config.service_folder(instance).mkdir(exist_ok=True, mode=0o700)
        for person in PEOPLE:
            self._person(person)
        for service in SERVICES:
            # The secrets service enrols itself.
            if service != "secrets":
                self._enrolment_record(service)
        self._trust.mkdir(parents=True, exist_ok=True, mode=0o700)
        roots = read_roots(self._vault)
        write_private(self._trust / "enrolment-ca.pem", "".join(roots[name] for name in sorted(roots)).encode())
        self._policy_bundles()

    def enrolment_token(self, instance: str, now: dt.datetime) -> Path:
        """Return the file for an instance's token, with a fresh one when its stored identity is missing or expired."""
        file = self._config.folder / "run" / "tokens" / instance
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        identity = IdentityFolder(self._config.service_folder(instance) / "identity").load()
        if identity is not None and identity.expire_time - MARGIN > now:
            file.unlink(missing_ok=True)
        else:
            token = self._vault.wrapped_record(RECORD_PREFIX + service_of(instance), ttl_seconds=TOKEN_SECONDS)
            write_private(file, token.encode())
        return file

    def _person(self, name: str) -> None:
        file = self._config.folder / "users" / name / "password"
        path = f"auth/userpass/users/{name}"
        try:
            self._vault.read(path)
            is_known = True
        except VaultPathError:
            is_known = False
        if is_known and file.exists():
            return
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(file, secrets.token_urlsafe(_PASSWORD_BYTES).encode())
        # The login proves the password and gives no right in the secret server itself.
        rights = {"token_policies": [], "token_no_default_policy": True, "token_type": "batch", "token_ttl": "60s"}
        self._vault.write(path, {"password": file.read_text(), **rights})

    def _enrolment_record(self, service: str) -> None:
        if self._vault.read_record(RECORD_PREFIX + service) is None:
            self._vault.write_record(RECORD_PREFIX + service, {"service": service}, expected_version=0)

    # Policies ---------------------------------------------------------------------------------------------------------

    def _named(self, file: Path) -> str:
        """Return a file of policies with the names of this suite's trust domain."""
        return file.read_text().replace(f"spiffe://{TRUST_DOMAIN}/", f"spiffe://{self._config.trust_domain}/")

    def _policy_bundles(self) -> None:
        """Give each instance the bundle in ``deploy/policies`` when it has none, or when those files have changed.

        A changed file makes a bundle with a version above all that are there, so that it also replaces what governance
        has published since.
        """
        policies = "\n".join(self._named(file) for file in sorted(self._policies.glob("*.cedar")))
        principals = json.loads(self._named(self._policies / "principals.json"))
        digest = hashlib.sha256(encode_bundle(0, policies, principals)).hexdigest()
        stamp = self._trust / "policy-source.sha256"
        bundles = {instance: self._bundle_file(instance) for instance in self._instances}
        is_current = stamp.exists() and stamp.read_text() == digest
        if not is_current or not any(file.exists() for file in bundles.values()):
            content = encode_bundle(1 + max(map(_version, bundles.values())), policies, principals)
            compile_bundle(content)  # better no start than a start on policies that do not hold
            envelope = self._sign(content)
            for file in bundles.values():
                write_private(file, envelope)
            write_private(stamp, digest.encode())
            return
        newest = max(bundles.values(), key=_version).read_bytes()
        for file in bundles.values():
            if not file.exists():
                write_private(file, newest)

    def _bundle_file(self, instance: str) -> Path:
        folder = self._config.service_folder(instance) / "policy"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder / "bundle.json"

    def _sign(self, content: bytes) -> bytes:
        keys = KeyRing(self._vault)
        signature, version = keys.sign(POLICY_KEY, content)
        public = {str(number): _encode(key) for number, key in keys.verification_keys(POLICY_KEY).items()}
        write_private(self._trust / "policy-keys.json", json.dumps(public).encode())
        envelope: dict[str, Any] = {
            "content": _encode(content),
            "signature": _encode(signature),
            "key_version": version,
        }
        return json.dumps(envelope).encode()


def _version(file: Path) -> int:
    if not file.exists():
        return 0
    return int(json.loads(base64.b64decode(json.loads(file.read_text())["content"]))["version"])


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()
