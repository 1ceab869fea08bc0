"""``python -m audit``: run every tool, print one table, and fail on anything that nobody has triaged."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from audit import ignored
from audit.finding import AuditError, Finding, Verdict
from audit.tools import TOOLS, Place

ROOT = Path(__file__).resolve().parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; return the exit code: 1 for a finding, or a tool that did not do its work."""
    parser = argparse.ArgumentParser(prog="python -m audit", description="Audit code and dependencies.")
    parser.add_argument("--programs", type=Path, default=ROOT / ".venv-audit" / "bin", help="folder with the tools")
    parser.add_argument("--out", type=Path, default=ROOT / "var" / "audit", help="folder of the reports (var/audit)")
    parser.add_argument("--only", action="append", choices=TOOLS, help="one tool")
    options = parser.parse_args(arguments)
    place = Place(ROOT, options.programs.absolute(), Path(sys.executable), options.out.absolute())
    place.out.mkdir(parents=True, exist_ok=True)
    return audit(place, options.only or list(TOOLS), dt.datetime.now(dt.UTC).date())


def audit(place: Place, tools: Sequence[str], today: dt.date) -> int:
    """Run tools, print and write the report; return the exit code."""
    try:
        entries = ignored.load(place.root / "audit" / ignored.LIST, today)
    except AuditError as error:
        print(f"audit: {error}", file=sys.stderr)
        return 1
    rows, left = [], []
    for name in tools:
        verdict = _run(name, place)
        # Nothing is known of entries whose tool did not do its work.
        own = [] if verdict.fault else [entry for entry in entries if entry.tool == name]
        found, passed = ignored.judge(verdict.findings, own, today)
        left += found
        rows.append((verdict, found, passed))
    if unknown := [entry for entry in entries if entry.tool not in TOOLS]:
        left.append(Finding(ignored.LIST, "unknown", str(unknown[0]), text=f"no such tool; known: {', '.join(TOOLS)}"))
    _write(place.out / "report.json", rows)
    _show(rows, left)
    return 1 if left or any(verdict.fault for verdict, _, _ in rows) else 0


def _run(name: str, place: Place) -> Verdict:
    try:
        return TOOLS[name](place)
    except AuditError as error:
        return Verdict(name, fault=str(error))


def _write(file: Path, rows: Sequence[tuple[Verdict, list[Finding], list[Finding]]]) -> None:
    """Write the report, without lines of source: one of them may hold a secret."""
    report = {
        verdict.tool: {
            "checked": verdict.checked,
            "fault": verdict.fault,
            "findings": [{**asdict(finding), "text": _told(finding)} for finding in found],
            "ignored": len(passed),
        }
        for verdict, found, passed in rows
    }
    file.write_text(json.dumps(report, indent=1) + "\n")


def _show(rows: Sequence[tuple[Verdict, list[Finding], list[Finding]]], left: Sequence[Finding]) -> None:
    for finding in left:
        line = f":{finding.line}" if finding.line else ""
        print(f"{finding.tool}: {finding.rule}: {finding.where}{line}: {_told(finding)}")
    print(f"{'tool':<16}{'checked':<22}{'findings':>8}{'ignored':>9}  verdict")
    for verdict, found, passed in rows:
        if verdict.fault:
            print(f"{verdict.tool:<16}{'-':<22}{'-':>8}{'-':>9}  not run: {verdict.fault}")
        else:
            said = "fail" if found else "pass"
            print(f"{verdict.tool:<16}{verdict.checked:<22}{len(found):>8}{len(passed):>9}  {said}")


def _told(finding: Finding) -> str:
    return "the line is not shown" if finding.tool == "detect-secrets" else finding.text


if __name__ == "__main__":
    sys.exit(main())
