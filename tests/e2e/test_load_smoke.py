"""`python -m loadtests` for a short time on a suite of its own: a rotation, a kill, a report, and an exit code to go by."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from loadtests.locust_kinds import KINDS
from tests.support.suite import ROOT, free_port_base

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
    assert {"ana", "ben", "creditapp", "mia", "pia"} <= set(report["disturbances"]["rotated"])
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
