"""What a platform runs once before it starts the services: the same commands as in ``deploy/compose``, as processes."""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.identity import IdentityFolder
from libs.authz import verify_envelope
from services.secrets.attestation import Attestor
from services.secrets.vault import Vault
from suite.config import PEOPLE, SERVICES, load_config
from suite.prepare import TOKEN_FILE, local_openbao, main
from tests.support.openbao import free_port, start, stop
from tests.support.suite import ROOT, RunningSuite, running_suite


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("prepared") / "suite"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEDGEROW_PORT_OPENBAO", str(free_port()))
        patch.setenv("HEDGEROW_PORT_OPENBAO_CLUSTER", str(free_port()))
        flags = ["--dir", str(folder), "--config", str(folder / "none.toml")]
        assert main(["openbao", *flags]) == 0
        process = start(local_openbao(load_config(folder=folder, file=folder / "none.toml")))
        try:
            assert main(["services", *flags, "--tokens", "--also", "prometheus"]) == 0
            # Again, as at each `compose up`.
            assert main(["openbao", *flags]) == 0
            assert main(["services", *flags, "--tokens", "--also", "prometheus"]) == 0
            yield folder
        finally:
            stop(process)


def test_each_service_finds_its_policies_and_the_trust(prepared: Path) -> None:
    assert (prepared / "trust" / "enrolment-ca.pem").read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")
    keys = json.loads((prepared / "trust" / "policy-keys.json").read_text())
    public = {int(version): base64.b64decode(key) for version, key in keys.items()}
    for service in SERVICES:
        envelope = json.loads((prepared / service / "policy" / "bundle.json").read_text())
        assert json.loads(verify_envelope(envelope, public))["version"] == 1
    assert {person.name for person in (prepared / "users").iterdir()} == set(PEOPLE)


def test_each_workload_has_a_token_of_its_own_that_only_it_can_read(prepared: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HEDGEROW_PORT_OPENBAO", _port(prepared))
        vault = Vault(local_openbao(load_config(folder=prepared, file=prepared / "none.toml")).settings("secrets"))
    attestor = Attestor(vault)
    for name in ("governance", "ingestion", "features", "training", "inference", "prometheus"):
        file = prepared / name / TOKEN_FILE
        assert file.stat().st_mode & 0o777 == 0o600
        assert attestor.service_of(file.read_text()) == name
    assert not (prepared / "secrets" / TOKEN_FILE).exists()
    assert {file.name for file in (prepared / "secrets" / "vault").iterdir()} == {
        "ca.pem",
        "secrets.pem",
        "secrets.key",
    }
    assert not list((prepared / "run" / "tokens").iterdir())
    vault.close()


def _port(folder: Path) -> str:
    return (folder / "openbao" / "openbao.hcl").read_text().split("https://127.0.0.1:")[1].split('"')[0]


def test_a_secret_server_that_is_away_is_said_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("suite.prepare.PATIENCE_SECONDS", 0.0)
    monkeypatch.setenv("HEDGEROW_PORT_OPENBAO", str(free_port()))
    flags = ["--dir", str(tmp_path / "suite"), "--config", str(tmp_path / "none.toml")]
    assert main(["openbao", *flags]) == 0
    assert main(["services", *flags]) == 1
    assert capsys.readouterr().err == "prepare: the secret server cannot be reached; try again\n"
    assert not (tmp_path / "suite" / "trust").exists()


# An identity for what is no service ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secrets_with_a_guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    folder = tmp_path_factory.mktemp("guest")
    file = folder / "suite.toml"
    known = json.dumps([*SERVICES, "prometheus"])
    file.write_text(f"[environment]\nHEDGEROW_SERVICES = '{known}'\n")
    with running_suite(folder / "suite", ["secrets"], file) as running:
        yield running


def test_prometheus_gets_and_keeps_an_identity(secrets_with_a_guest: RunningSuite, tmp_path: Path) -> None:
    config = secrets_with_a_guest.config
    supervisor = Vault(local_openbao(config).settings("supervisor"))
    supervisor.write_record("enrolment/prometheus", {"service": "prometheus"}, expected_version=0)
    token = tmp_path / "token"
    token.write_text(supervisor.wrapped_record("enrolment/prometheus", ttl_seconds=60))
    supervisor.close()
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HEDGEROW_SERVICE": "prometheus",
        "HEDGEROW_DATA_DIR": str(tmp_path / "data"),
        "HEDGEROW_TRUST_DIR": str(config.folder / "trust"),
        "HEDGEROW_SECRETS_ADDRESS": config.address("secrets"),
        "HEDGEROW_ENROLMENT_ADDRESS": config.address("enrolment"),
        "HEDGEROW_ENROLMENT_TOKEN_FILE": str(token),
    }
    command = [sys.executable, "-m", "libs.runtime.keep_identity"]
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        line = json.loads(process.stderr.readline())
        assert (line["event"], line["spiffe_id"]) == ("enrolled", "spiffe://hedgerow.local/service/prometheus")
        assert not token.exists()
        identity = IdentityFolder(tmp_path / "data" / "identity").load()
        assert identity is not None
    finally:
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, b"")
