"""What a tool found, and what it had to say in all."""

from __future__ import annotations

from dataclasses import dataclass


class AuditError(Exception):
    """A tool did not do its work, or the list of ignored findings is wrong; the message says the way out."""


@dataclass(frozen=True)
class Finding:
    """One thing that a tool found.

    Attributes:
        tool: who found it.
        rule: an advisory, a rule of bandit, a kind of secret.
        where: a file of this repository, or a package.
        line: in that file, from 1; 0 for a package.
        text: the line of source, or what the tool says. Never printed for a secret.
    """

    tool: str
    rule: str
    where: str
    line: int = 0
    text: str = ""


@dataclass(frozen=True)
class Verdict:
    """What one tool says.

    Attributes:
        tool: its name.
        checked: what it looked at, in words.
        findings: all of them, ignored ones too.
        fault: in words, why it did not do all of its work; empty when it did.
    """

    tool: str
    checked: str = ""
    findings: tuple[Finding, ...] = ()
    fault: str = ""
