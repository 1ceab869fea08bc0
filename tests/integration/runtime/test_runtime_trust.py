"""What a process trusts follows the secrets service, and outlives a restart."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import CollectorRegistry

from hedgerow.errors import DataLossError, UnauthenticatedError
from hedgerow.identity import Identity
from libs.config import ServiceConfig
from libs.runtime import Runtime
from libs.telemetry import serve_metrics
from tests.support.authority import Authority, folder
from tests.support.serving import project_bundle

KEY = Ed25519PrivateKey.generate()


@contextlib.asynccontextmanager
async def runtime(tmp: Path, authority: Authority) -> AsyncIterator[Runtime]:
    """Build the runtime of a service on what an earlier one left in the folder."""
    config = ServiceConfig(service="features", listen="127.0.0.1:0", data_dir=tmp / "features", trust_dir=tmp / "trust")
    content = project_bundle()
    envelope = {"content": content, "signature": KEY.sign(content)}
    (tmp / "features" / "policy").mkdir(parents=True, exist_ok=True)
    (tmp / "features" / "policy" / "bundle.json").write_text(
        json.dumps({name: base64.b64encode(value).decode() for name, value in envelope.items()} | {"key_version": 1})
    )
    (tmp / "trust").mkdir(exist_ok=True)
    public = base64.b64encode(KEY.public_key().public_bytes_raw()).decode()
    (tmp / "trust" / "policy-keys.json").write_text(json.dumps({"1": public}))
    built = Runtime(config, folder(tmp / "features" / "identity", authority.service("features")), None)
    try:
        yield built
    finally:
        await built.close()


def state(version: int, *revoked: Identity) -> SimpleNamespace:
    """Return a trust state as the secrets service streams it."""
    serials = [f"{identity.certificate.serial_number:x}" for identity in revoked]
    return SimpleNamespace(version=version, revoked_serials=serials, roots_pem="")


async def test_a_revocation_outlives_a_restart_without_the_secrets_service(tmp_path: Path) -> None:
    authority = Authority()
    stolen = authority.user("ana")
    async with runtime(tmp_path, authority) as before:
        await before.apply_trust(state(7, stolen))
    async with runtime(tmp_path, authority) as after:
        with pytest.raises(UnauthenticatedError) as caught:
            after.trust.judge(stolen.chain_pem)
        assert caught.value.reason == "CERTIFICATE_REVOKED"
        # Whatever the secrets service says next holds, even when its count began anew.
        await after.apply_trust(state(1))
        after.trust.judge(stolen.chain_pem)
    async with runtime(tmp_path, authority) as later:
        later.trust.judge(stolen.chain_pem)


async def test_a_full_disk_does_not_end_the_watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    stolen, second = authority.user("ana"), authority.user("ben")
    states = [[state(1, stolen)], [state(2, stolen, second)]]

    class Client:
        async def stream(self, *args: object, **options: object) -> AsyncIterator[SimpleNamespace]:
            for each in states.pop(0) if states else []:
                yield each

    def full(serials: frozenset[str]) -> None:
        monkeypatch.undo()
        raise OSError(28, "No space left on device")

    async with runtime(tmp_path, authority) as running:
        monkeypatch.setattr("libs.runtime.following.RETRY_SECONDS", 0.01)
        monkeypatch.setattr(running, "client", lambda *_: Client())
        monkeypatch.setattr(running._revocations, "keep", full)
        task = asyncio.create_task(running._watch_trust())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                while running.trust.version < 2:
                    await asyncio.sleep(0.01)
        task.cancel()
        for identity in (stolen, second):
            with pytest.raises(UnauthenticatedError):
                running.trust.judge(identity.chain_pem)


async def test_a_damaged_list_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "features" / "trust").mkdir(parents=True)
    (tmp_path / "features" / "trust" / "revoked.json").write_text("[")
    with pytest.raises(DataLossError):
        async with runtime(tmp_path, Authority()):
            pass


def test_the_metrics_port_follows_the_roots(tmp_path: Path) -> None:
    first, second = Authority("first"), Authority("second")
    both = first.roots_pem + second.roots_pem
    server_identity = folder(tmp_path / "server", first.service("features"))

    def context(roots: bytes) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.verify_mode = ssl.CERT_REQUIRED
        made.load_verify_locations(cadata=roots.decode())
        made.load_cert_chain(server_identity.folder / "identity.pem")
        return made

    current = context(first.roots_pem)
    server, _ = serve_metrics(CollectorRegistry(), "127.0.0.1", 0, lambda: current, lambda certificate: True)
    old, new = (folder(tmp_path / name, a.user("ana", roots_pem=both)) for name, a in (("1", first), ("2", second)))

    def status(client: Path) -> int:
        trusting = ssl.create_default_context(cadata=both.decode())
        trusting.load_cert_chain(client / "identity.pem")
        with (
            socket.create_connection(server.server_address[:2], timeout=5) as raw,
            trusting.wrap_socket(raw, server_hostname="features.hedgerow.local") as wrapped,
        ):
            wrapped.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            answer = http.client.HTTPResponse(wrapped)
            answer.begin()
            return answer.status

    try:
        assert status(old.folder) == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            status(new.folder)
        current = context(second.roots_pem)
        assert status(new.folder) == 200
        with pytest.raises((OSError, http.client.HTTPException)):
            status(old.folder)
    finally:
        server.shutdown()
        server.server_close()
