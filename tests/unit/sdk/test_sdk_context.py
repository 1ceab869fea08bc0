"""Where a suite is."""

import json
from pathlib import Path

import pytest

from hedgerow.errors import InvalidArgumentError, NotFoundError, UnauthenticatedError
from hedgerow.sdk import Context, login
from hedgerow.sdk.context import SERVICES, default_folder

_ADDRESSES = {service: f"127.0.0.1:{7440 + index}" for index, service in enumerate(SERVICES)}


def test_a_context_is_read_as_it_was_saved(tmp_path: Path) -> None:
    saved = Context(tmp_path / "here", _ADDRESSES, "127.0.0.1:7441", "suite.example.org")
    saved.save(b"roots")
    assert Context.load(tmp_path / "here") == saved
    assert saved.roots_file.read_bytes() == b"roots"


def test_a_context_without_a_trust_domain_is_of_the_one_that_suites_have_by_default(tmp_path: Path) -> None:
    content = {"addresses": _ADDRESSES, "enrolment": "127.0.0.1:7441"}
    (tmp_path / "context.json").write_text(json.dumps(content))
    assert Context.load(tmp_path).trust_domain == "hedgerow.local"


def test_without_a_context_the_way_out_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="make up"):
        Context.load(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", '{"addresses": {}}', '{"addresses": {"ingestion": "x"}, "enrolment": "y"}']
)
def test_a_broken_context_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "context.json").write_text(content)
    with pytest.raises(InvalidArgumentError, match="is not a context"):
        Context.load(tmp_path)


def test_the_environment_names_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("HEDGEROW_CONTEXT", raising=False)
    assert default_folder() == tmp_path / "hedgerow"
    monkeypatch.setenv("HEDGEROW_CONTEXT", str(tmp_path / "other"))
    assert default_folder() == tmp_path / "other"


def test_a_user_cannot_name_a_folder_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError):
        Context(tmp_path, _ADDRESSES, "x").identity("../ana")


async def test_login_without_the_pinned_ca_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnauthenticatedError, match=r"roots\.pem is missing"):
        await login(Context(tmp_path, _ADDRESSES, "127.0.0.1:1"), "ana", "password")
