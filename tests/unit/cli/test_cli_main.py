"""The command: exit codes, plain errors, and what people read."""

import json
import math
from pathlib import Path

import pytest

from hedgerow.cli import output
from hedgerow.cli.__main__ import cli, describe, main
from hedgerow.cli.resources import RESOURCES, full_name
from hedgerow.cli.session import Settings
from hedgerow.errors import (
    DeadlineExceededError,
    InvalidArgumentError,
    PermissionDeniedError,
    UnauthenticatedError,
    UnavailableError,
)
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.sdk import Context
from hedgerow.sdk.context import SERVICES


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    monkeypatch.delenv("HEDGEROW_USER", raising=False)
    monkeypatch.setenv("HEDGEROW_CONTEXT", str(tmp_path))
    made = Context(tmp_path, dict.fromkeys(SERVICES, "127.0.0.1:1"), "127.0.0.1:1")
    made.save(b"")
    return made


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name, command in cli.commands.items():
        assert main([name, "--help"]) == 0
        assert command.help
        assert capsys.readouterr().out.startswith("Usage: hedgerow")


@pytest.mark.parametrize("arguments", [["datasets", "list"], ["status"], ["predict", "c1", "--deployment", "d"]])
def test_without_a_suite_one_plain_line_and_exit_1(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--context", str(tmp_path), *arguments]) == 1
    told = capsys.readouterr().err
    assert told.startswith("hedgerow: no suite is known in ")
    assert told.count("\n") == 1
    assert "make up" in told


def test_wrong_use_is_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict"]) == 2
    assert main(["datasets", "lst"]) == 2
    assert main(["--output", "xml", "status"]) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--output", "json", "lst"],
        ["datasets", "lst", "--output=json"],
        ["predict", "--output", "json"],
        ["datasets", "list", "--nothing", "--output", "json"],
        ["--output", "text", "datasets", "list", "--limit", "x", "--output", "json"],
    ],
)
def test_wrong_use_is_told_in_json_to_who_asks_for_it(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    told = capsys.readouterr()
    error = json.loads(told.err)["error"]
    assert (told.out, error["code"], error["reason"]) == ("", "INVALID_ARGUMENT", "")
    assert error["message"]
    assert main([*arguments, "--output", "text"]) == 2
    assert capsys.readouterr().err.startswith("Usage: hedgerow")


@pytest.mark.parametrize("name", ["-- --output json", "lst --output", "lst --output xml"])
def test_json_is_not_told_to_who_does_not_ask_for_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", *name.split()]) == 2
    assert capsys.readouterr().err.startswith("Usage: hedgerow")


def test_who_calls_must_be_clear(context: Context, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "list"]) == 1
    assert "log in first: hedgerow login NAME" in capsys.readouterr().err
    for name in ("ana", "ben"):
        (context.folder / "users" / name).mkdir(parents=True)
    assert main(["datasets", "list"]) == 1
    assert "name one with --as: ana, ben" in capsys.readouterr().err
    assert main(["--as", "ana", "datasets", "list"]) == 1
    assert "log in: hedgerow login ana" in capsys.readouterr().err


def test_the_only_one_who_logged_in_calls(context: Context) -> None:
    (context.folder / "users" / "ana").mkdir(parents=True)
    assert Settings(None, None, "", as_json=False).caller(context) == "ana"
    (context.folder / "users" / "ana").rmdir()
    with pytest.raises(UnauthenticatedError):
        Settings(None, None, "", as_json=False).caller(context)


def test_a_wrong_definition_file_is_told_before_any_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "d.yaml"
    path.write_text("kind: Table\n")
    assert main(["apply", "-f", str(path)]) == 1
    assert "d.yaml, document 1: `kind` must be one of" in capsys.readouterr().err


def test_an_error_is_one_line_with_fields_code_and_request() -> None:
    error = InvalidArgumentError("the contract\nis wrong", fields={"contract.columns[0].type": "expected a type"})
    assert describe(error) == (
        "the contract is wrong (contract.columns[0].type: expected a type) [INVALID_ARGUMENT FIELD_INVALID]"
    )
    refused = PermissionDeniedError("no", reason="PURPOSE_NOT_PERMITTED", metadata={"request_id": "r1"})
    assert describe(refused) == "no [PERMISSION_DENIED PURPOSE_NOT_PERMITTED, request r1]"


def test_an_error_names_the_way_out() -> None:
    assert "`make up`" in describe(UnavailableError("features cannot be reached"))
    refused = PermissionDeniedError("no purpose", reason="PURPOSE_NOT_PERMITTED", metadata={"purpose": ""})
    assert "state one with --purpose" in describe(refused)


def test_login_without_a_suite_says_where_it_waited(
    context: Context, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    async def too_late(*_: object) -> None:
        raise DeadlineExceededError("Deadline Exceeded")

    monkeypatch.setattr("hedgerow.cli.session.log_in", too_late)
    (tmp_path / "password").write_text("p\n")
    assert main(["login", "ana", "--password-file", str(tmp_path / "password")]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"hedgerow: nothing answers at {context.enrolment}, where people log in")
    assert "make up" in told


def test_names_may_be_short() -> None:
    assert full_name("datasets", "clients") == "datasets/clients"
    assert full_name("datasets", "datasets/clients") == "datasets/clients"


def test_rows_as_json_hold_everything(capsys: pytest.CaptureFixture[str]) -> None:
    row = output.as_dict(ingestion_pb2.Dataset(name="datasets/clients", version=2))
    output.show([row], ["name"], as_json=True)
    [told] = json.loads(capsys.readouterr().out)
    assert (told["name"], told["version"], told["row_count"]) == ("datasets/clients", "2", "0")


def test_rows_as_text_are_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    output.show([{"name": "datasets/[red]x", "row_count": 3}], ["name", "row_count"], as_json=False)
    told = capsys.readouterr().out.splitlines()
    assert told[0].split() == ["name", "row", "count"]
    assert told[1].split() == ["datasets/[red]x", "3"]
    output.show([], ["name"], as_json=False)
    assert capsys.readouterr().out == "none\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("STATE_NOT_READY", "not ready"),
        (["a", "b"], "a, b"),
        ({"champion": 2}, "champion=2"),
        (math.nan, "none"),
        (0.123456789, "0.123457"),
        (True, "yes"),
    ],
)
def test_values_are_written_for_people(value: object, text: str) -> None:
    assert output.text(value) == text


def test_resources_have_unique_commands() -> None:
    names = [resource.command for resource in RESOURCES]
    assert len(names) == len(set(names))
