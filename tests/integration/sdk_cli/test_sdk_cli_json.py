"""Every command answers programs: `--output json` before or after it, and errors as JSON on standard error."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

from hedgerow.cli.__main__ import cli
from hedgerow.errors import InvalidArgumentError, PermissionDeniedError
from hedgerow.features.v1 import features_pb2
from hedgerow.governance.v1 import governance_pb2
from hedgerow.inference.v1 import inference_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.sdk import Context
from hedgerow.training.v1 import training_pb2
from tests.integration.sdk.mirror import Mirror
from tests.integration.sdk_cli.conftest import Run

Run_ = training_pb2.TrainingRun
OK = inference_pb2.Prediction(status=inference_pb2.Prediction.STATUS_OK, probability=0.25)
ANSWERS: dict[str, list[Any]] = {
    "GetDataset": [
        ingestion_pb2.Dataset(
            name="datasets/d",
            contract=ingestion_pb2.Contract(columns=[{"name": "value", "type": ingestion_pb2.Column.TYPE_INT64}]),
        )
    ],
    "AppendRecords": [ingestion_pb2.AppendRecordsResponse(version=1, row_count=2)],
    "WatchTrainingRun": [
        Run_(name="trainingRuns/r", state=Run_.STATE_TRAINING),
        Run_(name="trainingRuns/r", state=Run_.STATE_SUCCEEDED, model_version="models/m/versions/1"),
    ],
    "CreateTrainingRun": [Run_(name="trainingRuns/r", state=Run_.STATE_QUEUED)],
    "WatchTrainingSet": [features_pb2.TrainingSet(state=features_pb2.TrainingSet.STATE_SUCCEEDED)],
    "PredictEntities": [inference_pb2.PredictEntitiesResponse(predictions=[OK])],
    "ExplainEntities": [inference_pb2.ExplainEntitiesResponse(explanations=[{"prediction": OK}])],
    "ExportAuditTrail": [],
    "VerifyAuditTrail": [governance_pb2.VerifyAuditTrailResponse(verified=True)],
    "GetPolicyBundle": [governance_pb2.PolicyBundle(version=1, content=b'{"principals": {}}', etag="e")],
    "CreateErasureRequest": [governance_pb2.ErasureRequest(name="erasureRequests/e")],
    "WatchErasureRequest": [
        governance_pb2.ErasureRequest(name="erasureRequests/e", state=governance_pb2.ErasureRequest.STATE_SUCCEEDED)
    ],
    "ListModelVersions": [
        models_pb2.ListModelVersionsResponse(model_versions=[models_pb2.ModelVersion(name="models/m/versions/1")])
    ],
}


def leaves(group: click.Group, *path: str) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, *path, name)
        else:
            yield (*path, name)


def arguments(tmp: Path) -> dict[tuple[str, ...], list[str]]:
    """Return what each command needs; a command that is not here needs nothing."""
    (tmp / "d.yaml").write_text("kind: TrainingRun\nspec: {training_set: trainingSets/t, model: models/m}\n")
    (tmp / "d.csv").write_text("value\n1\n2\n")
    (tmp / "password").write_text("p\n")
    (tmp / "policies").mkdir(exist_ok=True)
    (tmp / "policies" / "a.cedar").write_text("")
    (tmp / "policies" / "principals.json").write_text("{}")
    named = {path: ["x"] for path in leaves(cli) if path[-1] in ("get", "watch", "show") and path[0] != "policies"}
    return named | {
        ("login",): ["ana", "--password-file", str(tmp / "password")],
        ("apply",): ["-f", str(tmp / "d.yaml")],
        ("ingest",): [str(tmp / "d.csv"), "--dataset", "d"],
        ("train",): ["-f", str(tmp / "d.yaml")],
        ("promote",): ["models/m/versions/1"],
        ("deploy",): ["d", "--version", "models/m/versions/1"],
        ("predict",): ["c1", "--deployment", "d"],
        ("explain",): ["c1", "--deployment", "d"],
        ("audit", "export"): [str(tmp / "export")],
        ("audit", "anchor"): ["ingestion", "i", "--after", "1", "--reason", "lost disk"],
        ("erase",): ["c1", "--domain", "d", "--yes"],
        ("policies", "publish"): [str(tmp / "policies")],
        ("completion",): ["zsh"],
        ("certificates", "revoke"): ["3f9a12bc", "--yes"],
    }


async def test_every_command_answers_in_json_wherever_the_option_stands(
    mirror: Mirror, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def log_in(context: Context, user: str, password: str) -> Any:
        assert password == "p"
        return context.identity(user)

    monkeypatch.setattr("hedgerow.cli.session.log_in", log_in)
    mirror.answers = ANSWERS
    needed = arguments(tmp_path)
    known = set(leaves(cli))
    assert needed.keys() <= known
    for path in sorted(known):
        after = await run(*path, *needed.get(path, []), "--output", "json")
        assert (after.code, after.err) == (0, ""), path
        assert json.loads(after.out) is not None, path
    before = await run("--output", "json", "datasets", "list")
    assert json.loads(before.out) == []


async def test_text_wins_where_it_is_asked_for_last(run: Run) -> None:
    ran = await run("--output", "json", "datasets", "list", "--output", "text")
    assert (ran.code, ran.out) == (0, "none\n")


async def test_an_error_in_json_has_what_a_program_decides_by(mirror: Mirror, run: Run) -> None:
    mirror.failures = [InvalidArgumentError("bad name", fields={"name": "expected datasets/{dataset}"})]
    ran = await run("datasets", "get", "x", "--output", "json")
    assert (ran.code, ran.out) == (1, "")
    error = json.loads(ran.err)["error"]
    assert (error["code"], error["reason"]) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert error["fields"] == {"name": "expected datasets/{dataset}"}
    assert error["message"].startswith("bad name (name: expected datasets/{dataset})")


async def test_a_stop_in_json_is_an_error(run: Run, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    ran = await run("erase", "c1", "--domain", "d", "--output", "json")
    assert (ran.code, ran.out, mirror.calls) == (1, "", [])
    assert json.loads(ran.err[ran.err.index("{") :])["error"]["code"] == "CANCELLED"


async def test_an_error_in_text_says_the_way_out(mirror: Mirror, run: Run) -> None:
    mirror.failures = [PermissionDeniedError("no", reason="PURPOSE_NOT_PERMITTED", metadata={"purpose": ""})]
    ran = await run("datasets", "get", "x")
    assert ran.code == 1
    assert "state one with --purpose" in ran.err
