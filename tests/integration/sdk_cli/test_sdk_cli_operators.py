"""What operators and auditors do: revoke certificates, take the trail away, start runs."""

from __future__ import annotations

import datetime as dt
import io
import json
from pathlib import Path

import pytest

from hedgerow.governance.v1 import governance_pb2
from hedgerow.secrets.v1 import secrets_pb2
from hedgerow.training.v1 import training_pb2
from tests.integration.sdk.mirror import Mirror
from tests.integration.sdk_cli.conftest import Run

Segment, Anchor = governance_pb2.AuditSegment, governance_pb2.AuditAnchor
REVOKED = secrets_pb2.RevokeCertificateResponse()
REVOKED.revoke_time.FromDatetime(dt.datetime(2026, 11, 25, 14, 30, tzinfo=dt.UTC))


@pytest.mark.parametrize("serial", ["3f9a12bc", "03F9A12BC", "3F:9A:12:BC"])
async def test_a_certificate_is_revoked_by_its_number_however_it_is_written(
    mirror: Mirror, run: Run, serial: str
) -> None:
    mirror.answers["RevokeCertificate"] = [REVOKED]
    ran = await run("certificates", "revoke", serial, "--yes")
    assert (ran.code, ran.out) == (0, "3f9a12bc is revoked since 2026-11-25 14:30:00 UTC\n")
    assert mirror.requests == [secrets_pb2.RevokeCertificateRequest(serial="3f9a12bc")]
    ran = await run("certificates", "revoke", serial, "--yes", "--output", "json")
    assert json.loads(ran.out) == {"serial": "3f9a12bc", "revoke_time": "2026-11-25T14:30:00Z"}


@pytest.mark.parametrize(("answer", "code", "calls"), [("n\n", 1, 0), ("", 1, 0), ("y\n", 0, 1)])
async def test_a_certificate_is_revoked_after_a_question(
    mirror: Mirror, run: Run, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, calls: int
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))
    ran = await run("certificates", "revoke", "3f9a12bc")
    assert (ran.code, len(mirror.calls)) == (code, calls)
    assert ran.err.startswith("Revoke the certificate 3f9a12bc, so that every service refuses its holder?")


@pytest.mark.parametrize("serial", ["", "3g", "3F9:A1", "certificates/3f"])
async def test_what_is_no_serial_number_is_not_sent(mirror: Mirror, run: Run, serial: str) -> None:
    ran = await run("certificates", "revoke", serial, "--yes")
    assert (ran.code, mirror.calls) == (2, [])
    assert "is not a serial number in hexadecimal" in ran.err


async def test_revoked_certificates_are_listed(mirror: Mirror, run: Run) -> None:
    assert (await run("certificates", "revoked")).out == "none\n"
    mirror.answers["WatchTrust"] = [secrets_pb2.TrustState(version=2, revoked_serials=["3f", "4a"])]
    ran = await run("certificates", "revoked")
    assert (ran.code, ran.out.split()) == (0, ["serial", "3f", "4a"])
    ran = await run("certificates", "revoked", "--output", "json")
    assert json.loads(ran.out) == [{"serial": "3f"}, {"serial": "4a"}]


async def test_the_trail_is_written_to_files(mirror: Mirror, run: Run, tmp_path: Path) -> None:
    mirror.answers["ExportAuditTrail"] = [
        Segment(name="auditSegments/ingestion-3f9a-0000000000000001", content=b"content", checkpoint="checkpoint")
    ]
    mirror.answers["VerifyAuditTrail"] = [
        governance_pb2.VerifyAuditTrailResponse(anchors=[Anchor(name="auditAnchors/3f9a", statement="lost")])
    ]
    ran = await run("audit", "export", str(tmp_path / "trail"))
    assert ran.code == 0
    assert {path.name: path.read_text() for path in (tmp_path / "trail").iterdir() if path.name != "keys.json"} == {
        "ingestion-3f9a-0000000000000001.segment": "content",
        "ingestion-3f9a-0000000000000001.checkpoint": "checkpoint",
        "3f9a.anchor": "lost",
    }


@pytest.mark.parametrize("name", ["auditSegments/../evil", "auditSegments//evil", "evil", "auditSegments/a/../../evil"])
async def test_a_server_does_not_choose_where_a_segment_is_written(
    mirror: Mirror, run: Run, tmp_path: Path, name: str
) -> None:
    mirror.answers["ExportAuditTrail"] = [Segment(name=name, content=b"content")]
    before = set(tmp_path.rglob("*"))
    ran = await run("audit", "export", str(tmp_path / "trail"))
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.endswith("[DATA_LOSS DATA_CORRUPT]\n")
    assert {path for path in set(tmp_path.rglob("*")) - before if "suite" not in path.parts} == {tmp_path / "trail"}


async def test_a_server_does_not_choose_where_an_anchor_is_written(mirror: Mirror, run: Run, tmp_path: Path) -> None:
    anchor = Anchor(name="auditAnchors/../evil", statement="lost")
    mirror.answers["VerifyAuditTrail"] = [governance_pb2.VerifyAuditTrailResponse(anchors=[anchor])]
    ran = await run("audit", "export", str(tmp_path / "trail"))
    assert ran.code == 1
    assert "DATA_LOSS" in ran.err
    assert not (tmp_path / "evil.anchor").exists()


async def test_a_run_that_is_asked_for_twice_trains_once_watched_or_not(
    mirror: Mirror, run: Run, tmp_path: Path
) -> None:
    done = training_pb2.TrainingRun(name="trainingRuns/r", state=training_pb2.TrainingRun.STATE_SUCCEEDED)
    mirror.answers |= {"CreateTrainingRun": [done], "WatchTrainingRun": [done]}
    text = "kind: TrainingRun\nspec: {training_set: trainingSets/t, model: models/m}\n"
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(f"{text}request_id: 7a2f0a52-6f0e-4c39-9a8e-3f0f3d3b8f10\n")
    for file in ("a.yaml", "b.yaml"):
        for options in ([], [], ["--watch"]):
            assert (await run("train", "-f", str(tmp_path / file), *options)).code == 0
    first, *ids = [request.request_id for request in mirror.requests]
    assert first
    assert ids == [first] * 2 + ["7a2f0a52-6f0e-4c39-9a8e-3f0f3d3b8f10"] * 3
