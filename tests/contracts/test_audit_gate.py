"""`make audit`: what it takes for a fault, and what it lets pass. Stand-ins play the tools; their answers are real ones."""

from __future__ import annotations

import datetime as dt
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from audit.__main__ import audit
from audit.finding import AuditError, Finding
from audit.ignored import judge, load
from audit.tools import CONTROL, TOOLS, Place

ROOT = Path(__file__).parents[2]
TODAY = dt.date(2026, 11, 25)
ENTRY = """
[[ignored]]
tool = "bandit"
rule = "B608"
where = "app.py"
reason = "The name comes from a constant."
expires = 2027-05-31
"""
SOURCE = 'query = f"SELECT * FROM {TABLE}"\n'
BANDIT = {
    "errors": [],
    "results": [{"test_id": "B608", "filename": "./app.py", "line_number": 1, "issue_text": "Possible SQL injection"}],
}
NONE: dict[str, Any] = {"errors": [], "results": []}
ADVISORY = {"id": "PYSEC-2019-132", "fix_versions": ["1.24.2"], "aliases": ["CVE-2019-11324"], "description": ""}
CONTROLLED = {"dependencies": [{"name": "urllib3", "version": "1.24.1", "vulns": [ADVISORY]}]}
CLEAN = {"dependencies": [{"name": "click", "version": "8.5.1", "vulns": []}]}
UNKNOWN = {"dependencies": [{"name": "click", "skip_reason": "Dependency not found on PyPI and could not be audited"}]}


def stand_in(place: Place, name: str, *answers: dict[str, Any], code: int = 0) -> None:
    """Install a tool that gives one answer after another, the last one for ever."""
    kept = place.programs / f"{name}.json"
    kept.write_text(json.dumps(answers))
    (place.programs / name).write_text(
        f"#!{sys.executable}\nimport json, pathlib, sys\n"
        f"kept = pathlib.Path({str(kept)!r})\nfirst, *rest = json.loads(kept.read_text())\n"
        f"kept.write_text(json.dumps(rest or [first]))\nprint(json.dumps(first))\nsys.exit({code})\n"
    )
    (place.programs / name).chmod(0o700)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A checkout of one file, and tools that find nothing."""
    root, programs, out = tmp_path / "root", tmp_path / "bin", tmp_path / "out"
    for folder in (root / "audit", programs, out):
        folder.mkdir(parents=True)
    (root / "app.py").write_text(SOURCE)
    (root / "constraints.txt").write_text("click==8.5.1\n")
    (root / "audit" / "requirements.txt").write_text("bandit==1.9.4\n")
    (root / "audit" / "ignored.toml").touch()
    subprocess.run(["git", "init", "--quiet", str(root)], check=True)
    made = Place(root, programs, Path(sys.executable), out)
    stand_in(made, "bandit", NONE)
    stand_in(made, "detect-secrets", {"results": {}})
    stand_in(made, "pip-audit", CONTROLLED, CLEAN)
    return made


def test_it_passes_where_nothing_is_found(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert audit(place, ["pip-audit", "bandit", "detect-secrets"], TODAY) == 0
    rows = capsys.readouterr().out.splitlines()[1:]
    assert [(row.split()[0], row.split()[-1]) for row in rows] == [
        ("pip-audit", "pass"), ("bandit", "pass"), ("detect-secrets", "pass"),
    ]  # fmt: skip


def test_a_finding_fails_until_it_is_triaged(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in(place, "bandit", BANDIT)
    assert audit(place, ["bandit"], TODAY) == 1
    assert f"bandit: B608: app.py:1: {SOURCE.strip()}" in capsys.readouterr().out
    (place.root / "audit" / "ignored.toml").write_text(ENTRY)
    assert audit(place, ["bandit"], TODAY) == 0
    assert json.loads((place.out / "report.json").read_text())["bandit"]["ignored"] == 1


def test_an_expired_triage_fails(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in(place, "bandit", BANDIT)
    (place.root / "audit" / "ignored.toml").write_text(ENTRY)
    assert audit(place, ["bandit"], dt.date(2027, 5, 31)) == 0
    assert audit(place, ["bandit"], dt.date(2027, 6, 1)) == 1
    assert "expired on 2027-05-31" in capsys.readouterr().out


def test_a_triage_hides_no_second_finding_and_does_not_outlive_its_own(place: Place) -> None:
    (place.root / "audit" / "ignored.toml").write_text(ENTRY)
    stand_in(place, "bandit", {**BANDIT, "results": BANDIT["results"] * 2})
    assert audit(place, ["bandit"], TODAY) == 1
    stand_in(place, "bandit", NONE)
    assert audit(place, ["bandit"], TODAY) == 1


def test_a_triage_is_about_the_line_it_names(place: Place) -> None:
    stand_in(place, "bandit", BANDIT)
    (place.root / "audit" / "ignored.toml").write_text(ENTRY + 'contains = "{TABLE}"\n')
    assert audit(place, ["bandit"], TODAY) == 0
    (place.root / "app.py").write_text('query = f"SELECT * FROM {name}"\n')
    assert audit(place, ["bandit"], TODAY) == 1


def test_vulnerabilities_are_found_by_package(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in(place, "pip-audit", CONTROLLED, CONTROLLED, CLEAN, code=1)
    assert audit(place, ["pip-audit"], TODAY) == 1
    assert "pip-audit: PYSEC-2019-132: urllib3: mended in 1.24.2" in capsys.readouterr().out


@pytest.mark.parametrize("answers", [(UNKNOWN,), (CLEAN,), (CONTROLLED, UNKNOWN), ({},)])
def test_an_advisory_service_that_knows_nothing_is_no_pass(
    place: Place, capsys: pytest.CaptureFixture[str], answers: tuple[dict[str, Any], ...]
) -> None:
    """The tool itself calls an unknown package a success."""
    stand_in(place, "pip-audit", *answers)
    assert audit(place, ["pip-audit"], TODAY) == 1
    assert "not run: " in capsys.readouterr().out


def test_what_is_known_is_told_beside_what_is_not(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    stand_in(place, "pip-audit", CONTROLLED, CONTROLLED, UNKNOWN)
    assert audit(place, ["pip-audit"], TODAY) == 1
    told = capsys.readouterr().out
    assert "PYSEC-2019-132: urllib3" in told
    assert "nothing is known about 1 of 2 packages: click" in told


def test_a_tool_that_is_missing_or_breaks_is_no_pass(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.programs / "bandit").unlink()
    stand_in(place, "detect-secrets", {}, code=2)
    assert audit(place, ["bandit", "detect-secrets"], TODAY) == 1
    told = capsys.readouterr().out
    assert "bandit is not installed" in told
    assert "detect-secrets ended with 2" in told


def test_no_report_holds_the_line_of_a_secret(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    (place.root / "app.py").write_text('password = "hunter2"\n')
    found = {"type": "Secret Keyword", "filename": "app.py", "hashed_secret": "00", "line_number": 1}
    stand_in(place, "detect-secrets", {"results": {"app.py": [found]}})
    assert audit(place, ["detect-secrets"], TODAY) == 1
    assert "Secret Keyword: app.py:1" in (told := capsys.readouterr().out)
    assert "hunter2" not in told + (place.out / "report.json").read_text()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (('reason = "The name comes from a constant."', 'reason = ""'), "lacks reason"),
        (("expires = 2027-05-31", ""), "lacks expires"),
        (("expires = 2027-05-31", 'expires = "2027-05-31"'), "without quotes"),
        (("expires = 2027-05-31", "expires = 2028-05-31"), "within a year"),
        (('where = "app.py"', 'where = "*"\ncount = 3'), "for one place"),
        (("expires", "until = 1\nexpires"), "'until' is unknown"),
    ],
)
def test_a_triage_without_reason_or_end_is_refused(tmp_path: Path, change: tuple[str, str], fault: str) -> None:
    file = tmp_path / "ignored.toml"
    file.write_text(ENTRY.replace(*change))
    with pytest.raises(AuditError, match=fault):
        load(file, TODAY)


def test_the_repositorys_own_triage_is_in_order() -> None:
    """On the day that this was written: that an entry expired is for `make audit` to say."""
    entries = load(ROOT / "audit" / "ignored.toml", TODAY)
    assert {entry.tool for entry in entries} <= TOOLS.keys()
    for entry in entries:
        assert entry.any_number or (ROOT / entry.where).is_file(), str(entry)
    left, ignored = judge([Finding("bandit", "B999", "app.py")], entries[:0], TODAY)
    assert (len(left), ignored) == (1, [])


def test_the_tools_are_pinned_and_the_image_makes_its_list_with_the_same_one() -> None:
    pins = [line for line in (ROOT / "audit" / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in pins)
    names = {line.split("==")[0].replace("_", "-").lower() for line in pins}
    assert {"pip-audit", "bandit", "detect-secrets", "cyclonedx-bom"} <= names
    assert re.findall(r"cyclonedx-bom==\S+", (ROOT / "deploy" / "docker" / "Dockerfile").read_text()) == [
        line for line in pins if line.startswith("cyclonedx-bom==")
    ]
    assert CONTROL not in (ROOT / "constraints.txt").read_text()
