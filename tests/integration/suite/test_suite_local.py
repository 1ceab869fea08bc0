"""The real suite, as far as OpenBao and the secrets service: first start, restarts, crashes, configuration."""

import base64
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.identity import Identity
from hedgerow.secrets.v1 import secrets_pb2 as pb
from suite.bootstrap_ca import BootstrapFolder
from suite.config import PEOPLE, SERVICES
from suite.openbao import OpenBao
from suite.process import start_ticks
from suite.provision import Provisioner
from tests.support.suite import ROOT, RunningSuite, running_suite

SECRETS = pb.DESCRIPTOR.services_by_name["SecretsService"]
BACK_SECONDS = 5.0


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    with running_suite(tmp_path_factory.mktemp("suite"), ["secrets"]) as running:
        yield running


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_leaves_everything_in_private_files(suite: RunningSuite) -> None:
    folder = suite.config.folder
    passwords = [folder / "users" / name / "password" for name in PEOPLE]
    bundles = [folder / name / "policy" / "bundle.json" for name in SERVICES]
    others = [
        folder / "trust" / "enrolment-ca.pem",
        folder / "trust" / "policy-keys.json",
        folder / "bootstrap" / "seal.key",
    ]
    assert {mode(file) for file in passwords + bundles + others} == {0o600}
    assert {mode(folder / name) for name in ("openbao", "bootstrap", "trust", "run", "logs", *SERVICES)} == {0o700}
    assert len({file.read_text() for file in passwords}) == len(PEOPLE)
    assert len({file.read_bytes() for file in bundles}) == 1


def test_status_tells_how_each_service_does(suite: RunningSuite) -> None:
    report = suite.status()
    assert report["phase"] == "serving"
    assert report["healthy"] is True
    assert {name: service["health"] for name, service in report["services"].items()} == {
        "openbao": "active", "secrets": "SERVING",
    }  # fmt: skip
    secrets = report["services"]["secrets"]
    assert secrets["restarts"] == 0
    assert secrets["rss_mib"] > 0
    assert secrets["ports"]["grpc"] == suite.config.ports["secrets"]
    table = suite.run("status")
    assert table.returncode == 0
    assert "SERVING" in table.stdout


def test_a_second_up_says_that_it_runs(suite: RunningSuite) -> None:
    result = suite.run("up")
    assert result.returncode == 0
    assert f"running already (pid {suite.status()['supervisor']['pid']})" in result.stdout


def test_a_copy_of_the_folder_in_use_ends_nothing_of_the_original(suite: RunningSuite, tmp_path: Path) -> None:
    before = suite.status()
    copy = RunningSuite(tmp_path / "copy", ["secrets"])
    shutil.copytree(suite.config.folder / "run", copy.config.folder / "run")
    assert copy.run("down").stdout == "The suite is not running.\n"
    with socket.create_server(("127.0.0.1", copy.config.ports["enrolment"])):
        assert "is taken by another process" in copy.run("up").stderr
    after = suite.status()
    assert after["healthy"] is True
    pids = [[service["pid"] for service in report["services"].values()] for report in (before, after)]
    assert pids[0] == pids[1]


async def kept_key(suite: RunningSuite, folder: Path, identity: Identity, wrapped: bytes) -> tuple[bytes, bytes]:
    """Unwrap ``wrapped``, or make a data key where it is empty."""
    async with suite.client(folder, identity, "secrets", SECRETS) as client:
        if wrapped:
            request = pb.UnwrapKeyRequest(key="keys/features-kept", wrapped=wrapped)
            return (await client.call("UnwrapKey", request, timeout=10.0)).plaintext, wrapped
        made = await client.call("CreateDataKey", pb.CreateDataKeyRequest(key="keys/features-kept"), timeout=10.0)
        return made.plaintext, made.wrapped


@pytest.mark.parametrize("victim", ["openbao", "secrets"])
async def test_a_killed_service_is_back_within_five_seconds_with_every_acknowledged_write(
    suite: RunningSuite, tmp_path: Path, victim: str
) -> None:
    identity = await suite.enrol("Enroll", token=suite.token("features"))
    plaintext, wrapped = await kept_key(suite, tmp_path, identity, b"")
    restarts = suite.status()["services"][victim]["restarts"]
    killed = time.time()
    os.kill(suite.status()["services"][victim]["pid"], signal.SIGKILL)
    service: dict[str, Any] = {}
    while time.time() < killed + 30 and not (service.get("restarts") == restarts + 1 and service["phase"] == "serving"):
        service = json.loads((suite.config.folder / "run" / "suite.json").read_text())["services"][victim]
        time.sleep(0.02)
    assert service["phase"] == "serving"
    assert service["since"] - killed < BACK_SECONDS
    assert await kept_key(suite, tmp_path, identity, wrapped) == (plaintext, wrapped)
    assert suite.status()["healthy"] is True


def test_the_audit_file_of_openbao_turns_over_while_it_serves(suite: RunningSuite) -> None:
    folder = suite.config.folder
    server = OpenBao(
        folder / "openbao", BootstrapFolder(folder / "bootstrap", "hedgerow.local"), port=1, cluster_port=2
    )
    former = server.audit_file.stat().st_ino
    server.turn_over_audit(suite.status()["services"]["openbao"]["pid"], max_bytes=1)
    vault = suite.vault("supervisor")
    while not server.audit_file.exists():
        vault.state()
        time.sleep(0.05)
    vault.read_record("hedgerow/initialised")
    vault.close()
    assert server.audit_file.with_name("audit.log.1").stat().st_ino == former
    assert server.audit_file.stat().st_ino != former
    assert mode(server.audit_file) == 0o600
    assert b"hedgerow/initialised" in server.audit_file.read_bytes()


def test_changed_policies_become_a_new_version(suite: RunningSuite, tmp_path: Path) -> None:
    vault = suite.vault("supervisor")
    source = tmp_path / "policies"
    source.mkdir()
    (source / "a.cedar").write_text('@id("one") permit (principal, action, resource);')
    (source / "principals.json").write_text("{}")
    bundle = suite.config.service_folder("features") / "policy" / "bundle.json"
    before = bundle.read_bytes()
    Provisioner(suite.config, vault).prepare()
    assert bundle.read_bytes() == before
    Provisioner(suite.config, vault, source).prepare()
    content = json.loads(base64.b64decode(json.loads(bundle.read_text())["content"]))
    assert (content["version"], content["principals"]) == (2, {})
    Provisioner(suite.config, vault).prepare()
    vault.close()


def test_a_taken_port_is_named_with_the_way_out(tmp_path: Path) -> None:
    stopped = RunningSuite(tmp_path / "suite", ["secrets"])
    port = stopped.config.ports["enrolment"]
    with socket.create_server(("127.0.0.1", port)):
        result = stopped.run("up")
    assert result.returncode == 1
    assert f"port {port} for enrolment is taken by another process" in result.stderr
    assert "HEDGEROW_PORT_ENROLMENT=NUMBER" in result.stderr
    assert not (tmp_path / "suite" / "openbao").exists()


def test_a_folder_without_room_is_named_with_the_way_out(tmp_path: Path) -> None:
    stopped = RunningSuite(tmp_path / "suite", ["secrets"])
    # Files can be made and not be filled, as on a full disk.
    result = subprocess.run(
        [sys.executable, "-m", "suite", "up", "--dir", str(stopped.config.folder)],
        capture_output=True, text=True, check=False, cwd=ROOT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
    )  # fmt: skip
    assert result.returncode == 1
    assert f"the suite cannot write to {stopped.config.folder}" in result.stderr
    assert "HEDGEROW_DIR=FOLDER" in result.stderr


def test_down_twice_and_status_of_what_never_ran(tmp_path: Path) -> None:
    stopped = RunningSuite(tmp_path / "suite", ["secrets"])
    assert stopped.run("status").returncode == 1
    assert stopped.run("down").stdout == "The suite is not running.\n"


def test_an_interrupted_first_start_is_made_afresh(tmp_path: Path) -> None:
    suite = RunningSuite(tmp_path / "suite", ["secrets"])
    first = suite.start()
    raft = suite.config.folder / "openbao" / "raft" / "raft" / "raft.db"
    while not raft.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    first.kill()
    first.communicate(timeout=30)
    assert not (suite.config.folder / "openbao" / "complete").exists()
    try:
        result = suite.run("up", "--detach")
        assert result.returncode == 0, result.stdout + result.stderr
        assert suite.status()["healthy"] is True
    finally:
        suite.run("down")


def test_a_complete_server_is_never_removed(suite: RunningSuite) -> None:
    folder = suite.config.folder
    server = OpenBao(
        folder / "openbao", BootstrapFolder(folder / "bootstrap", "hedgerow.local"), port=1, cluster_port=2
    )
    with pytest.raises(RuntimeError, match="never removed"):
        server.remove_incomplete()


def test_a_secret_server_of_ones_own_by_configuration_alone(tmp_path: Path, openbao: OpenBao) -> None:
    secrets_cert, secrets_key = openbao.bootstrap.certificate("secrets")
    supervisor_cert, supervisor_key = openbao.bootstrap.certificate("supervisor")
    file = tmp_path / "suite.toml"
    file.write_text(
        f'[vault]\naddress = "{openbao.address}"\nca_file = "{openbao.bootstrap.ca_file}"\n'
        f'secrets_cert_file = "{secrets_cert}"\nsecrets_key_file = "{secrets_key}"\n'
        f'supervisor_cert_file = "{supervisor_cert}"\nsupervisor_key_file = "{supervisor_key}"\n'
    )
    with running_suite(tmp_path / "suite", ["secrets"], file) as suite:
        report = suite.status()
        assert list(report["services"]) == ["secrets"]
        assert report["healthy"] is True
        assert not (suite.config.folder / "openbao").exists()


def test_a_trust_domain_of_ones_own_holds_in_certificates_and_policies(tmp_path: Path) -> None:
    file = tmp_path / "suite.toml"
    file.write_text('[suite]\ntrust_domain = "suite.example.org"\n')
    with running_suite(tmp_path / "suite", ["secrets"], file) as suite:
        # The supervisor asks for health over mutual TLS, as a principal that the policies name.
        assert suite.status()["phase"] == "serving"
        assert suite.status()["healthy"] is True
        envelope = json.loads((suite.config.folder / "secrets" / "policy" / "bundle.json").read_text())
        content = base64.b64decode(envelope["content"])
        assert b"spiffe://suite.example.org/user/ana" in content
        assert b"hedgerow.local" not in content


def test_down_stops_everything(tmp_path: Path) -> None:
    with running_suite(tmp_path / "suite", ["secrets"]) as suite:
        pids = [service["pid"] for service in suite.status()["services"].values()]
        assert suite.run("down").stdout == "The suite is stopped.\n"
        assert [start_ticks(pid) for pid in pids] == [None, None]
        assert suite.status()["phase"] == "stopped"
