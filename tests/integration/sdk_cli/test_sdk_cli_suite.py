"""The command against a real suite, as the guides have it: log in, revoke, be refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.cli.__main__ import main
from hedgerow.identity import IdentityFolder
from tests.support.suite import RunningSuite, running_suite


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    with running_suite(tmp_path_factory.mktemp("revoking") / "suite", ["secrets"]) as running:
        yield running


def test_an_operator_revokes_and_the_holder_is_refused(
    suite: RunningSuite, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    users = suite.config.folder / "users"
    monkeypatch.setenv("HEDGEROW_CONTEXT", str(suite.config.folder))
    for person in ("operator", "creditapp"):
        assert main(["login", person, "--password-file", str(users / person / "password")]) == 0
    assert main(["--as", "creditapp", "certificates", "revoked"]) == 0
    assert main(["--as", "creditapp", "certificates", "revoke", serial_of(users / "creditapp"), "--yes"]) == 1
    assert "PERMISSION_DENIED" in capsys.readouterr().err

    assert main(["--as", "operator", "certificates", "revoke", serial_of(users / "creditapp").upper(), "--yes"]) == 0
    capsys.readouterr()
    assert main(["--as", "operator", "certificates", "revoked", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"serial": serial_of(users / "creditapp")}]
    assert main(["--as", "creditapp", "certificates", "revoked"]) == 1
    assert "CERTIFICATE_REVOKED" in capsys.readouterr().err


def serial_of(folder: Path) -> str:
    identity = IdentityFolder(folder).load()
    assert identity is not None
    return f"{identity.certificate.serial_number:x}"
