"""`python -m loadtests` for a short time: a rotation, a kill, a report, and an exit code to go by.

First on a suite that it starts and stops itself, then on one that is up.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hedgerow.sdk import Context
from loadtests.local_run import LocalRun
from loadtests.locust_kinds import KINDS
from loadtests.scenario import PEOPLE
from tests.support.suite import ROOT, free_port_base, whole_suite

SECONDS = 12
LIMIT = 240
# A loaded machine is slow; what this test holds the run to is that nothing fails.
BUDGETS = """
[services]
{services}
[run]
failures = 0
generator_headroom_percent = 1
generator_lag_p99_ms = 60000
longest_silence_seconds = 600
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_")}
    return subprocess.run(
        [sys.executable, "-m", "loadtests", "--dir", str(folder / "suite"), "--port-base", str(free_port_base()),
         "--seconds", str(SECONDS), "--users", "14", "--workers", "2", "--report", str(folder / "report"), *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip


def budgets(folder: Path, p99_ms: float) -> str:
    file = folder / f"budgets_{p99_ms:g}.toml"
    services = "\n".join(f"{kind.name} = {{p99_ms = {p99_ms}}}" for kind in KINDS)
    file.write_text(BUDGETS.format(services=services))
    return str(file)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], Path]:
    folder = tmp_path_factory.mktemp("load")
    return run(folder, "--budgets", budgets(folder, 60_000)), folder


def test_every_service_is_loaded_through_a_rotation_and_a_kill_without_a_failed_call(
    smoke: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    result, folder = smoke
    assert result.returncode == 0, result.stdout + result.stderr
    report: dict[str, Any] = json.loads((folder / "report" / "report.json").read_text())
    checks = {check["name"]: check["value"] for check in report["checks"]}
    assert {f"p99_ms_{kind.name}" for kind in KINDS} <= set(checks)
    assert checks["load_failures"] == checks["load_failures_during_kill_and_rotation"] == 0
    assert 0 < checks["generator_headroom_percent"] <= 100
    assert report["outcome"] == "kept"
    assert report["generators"]["workers"] == 2
    assert report["disturbances"]["killed"] == "inference"
    assert checks["callers_rotated"] == 5
    assert set(PEOPLE) <= set(report["disturbances"]["rotated"])
    assert checks["unexpected_restarts"] == 0
    assert "not every service had to rotate" in result.stdout
    assert not report["generators"]["ended_early"]
    for kind in KINDS:
        service = report["services"][kind.name]
        assert service["calls"] > 0
        assert service["received_bytes"] > 0


def test_the_pages_stand_alone_and_hold_no_personal_data(
    smoke: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    _, folder = smoke
    html = (folder / "report" / "report.html").read_text()
    assert html.count("<svg") == 4
    assert "http" not in html
    for page in ("report.html", "report.json", "locust.html"):
        assert "CARD-" not in (folder / "report" / page).read_text()


def log_in(suite: Path) -> None:
    """Log every caller in anew, for an hour, so that only a rotation gives them other certificates in a run."""
    context = Context.load(suite)
    for person in PEOPLE:
        (context.identity(person).folder / "identity.pem").unlink()
    asyncio.run(LocalRun(suite, 1).context())


def people(suite: Path) -> dict[str, int]:
    """Return the serial number of each caller's stored certificate."""
    context = Context.load(suite)
    identities = {person: context.identity(person).load() for person in PEOPLE}
    return {person: each.certificate.serial_number for person, each in identities.items() if each is not None}


def test_a_suite_that_is_up_is_left_up_with_new_certificates_and_a_broken_budget_is_told(
    smoke: tuple[subprocess.CompletedProcess[str], Path],
) -> None:
    """LOC-02: the exit code reflects what was found; and of a rotation that did not happen, the serials would tell."""
    _, folder = smoke
    with whole_suite(folder / "suite") as up:
        log_in(folder / "suite")
        before = people(folder / "suite")
        result = run(folder, "--budgets", budgets(folder, 0.001))
        assert result.returncode == 1, result.stdout + result.stderr
        assert up.state().is_alive()
        assert up.restarts() == {name: int(name == "inference") for name in up.restarts()}
        after = people(folder / "suite")
    assert set(before) == set(after) == set(PEOPLE)
    assert not set(before.values()) & set(after.values())
    report = json.loads((folder / "report" / "report.json").read_text())
    assert report["outcome"] == "broken"
    missed = {check["name"] for check in report["checks"] if check["op"] == "<=" and check["value"] > check["goal"]}
    assert missed == {f"p99_ms_{kind.name}" for kind in KINDS}
