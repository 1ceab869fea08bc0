"""Findings that somebody looked at and found to be no fault: ``audit/ignored.toml``.

1. Each entry names the tool, the rule, the place, a reason and a day on which it expires, a year ahead at most.
2. A place is a file or a package; with ``*`` it is a pattern, and then the entry stands for any number of findings.
3. An entry for one place stands for exactly ``count`` findings (1), those whose source line has ``contains`` if it says so.
   With fewer it is stale, and the rest of more are findings: so one triage never hides the next fault.
4. What has expired ignores nothing, and is a finding of its own.
"""

from __future__ import annotations

import datetime as dt
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from audit.finding import AuditError, Finding

LIST = "ignored.toml"
LONGEST = dt.timedelta(days=366)
_REQUIRED = ("tool", "rule", "where", "reason", "expires")
_OPTIONAL = ("contains", "count")


@dataclass(frozen=True)
class Entry:
    """One line of triage; see the rules above."""

    tool: str
    rule: str
    where: str
    reason: str
    expires: dt.date
    contains: str = ""
    count: int = 1

    @property
    def any_number(self) -> bool:
        """Whether it stands for a pattern of places."""
        return "*" in self.where

    def covers(self, finding: Finding) -> bool:
        """Whether it is about a finding."""
        return (
            (finding.tool, finding.rule) == (self.tool, self.rule)
            and fnmatchcase(finding.where, self.where)
            and self.contains in finding.text
        )

    def __str__(self) -> str:
        return f"{self.tool} {self.rule} in {self.where}"


def load(file: Path, today: dt.date) -> list[Entry]:
    """Return the entries of a file.

    Raises:
        AuditError: an entry is malformed, gives no reason, or stands for longer than a year.
    """
    try:
        found = tomllib.loads(file.read_text()).get("ignored", [])
    except tomllib.TOMLDecodeError as error:
        raise AuditError(f"{file.name}: {error}") from None
    return [_entry(number, fields, file.name, today) for number, fields in enumerate(found, start=1)]


def _entry(number: int, fields: dict[str, Any], name: str, today: dt.date) -> Entry:
    where = f"{name}, entry {number}"
    if missing := [key for key in _REQUIRED if not fields.get(key)]:
        raise AuditError(f"{where} lacks {', '.join(missing)}")
    if unknown := sorted(set(fields) - {*_REQUIRED, *_OPTIONAL}):
        raise AuditError(f"{where}: {unknown[0]!r} is unknown; known are {', '.join((*_REQUIRED, *_OPTIONAL))}")
    if type(fields["expires"]) is not dt.date:
        raise AuditError(f"{where}: expires must be a date such as 2027-01-31, without quotes")
    if fields["expires"] > today + LONGEST:
        raise AuditError(f"{where}: expires must be within a year, so that somebody looks again")
    entry = Entry(**fields)
    if "count" in fields and (entry.any_number or entry.count < 1):
        raise AuditError(f"{where}: count is for one place, and at least 1")
    return entry


def judge(findings: Iterable[Finding], entries: Iterable[Entry], today: dt.date) -> tuple[list[Finding], list[Finding]]:
    """Return what remains to be mended, the faults of the entries themselves among it, and what is ignored."""
    left, ignored = list(findings), []
    faults = []
    for entry in entries:
        if entry.expires < today:
            faults.append(_fault(entry, "expired", f"expired on {entry.expires}: look again"))
            continue
        covered = [finding for finding in left if entry.covers(finding)]
        if not entry.any_number:
            if len(covered) < entry.count:
                faults.append(_fault(entry, "stale", f"{len(covered)} found where {entry.count} are ignored"))
            covered = covered[: entry.count]
        for finding in covered:
            left.remove(finding)
        ignored += covered
    return [*left, *faults], ignored


def _fault(entry: Entry, rule: str, what: str) -> Finding:
    return Finding(LIST, rule, str(entry), text=what)
