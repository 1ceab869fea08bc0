"""The one form of every benchmark's figures: ``var/bench/<name>.json`` with checks, and a line per check."""

from __future__ import annotations

import json
import operator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_OPERATORS = {">=": operator.ge, "<=": operator.le, "==": operator.eq}


@dataclass(frozen=True)
class Check:
    """A measured value beside its goal.

    Attributes:
        name: what was measured.
        value: computed from this run.
        unit: of value and goal.
        op: ``>=``, ``<=`` or ``==``.
        goal: what the value is held against.
    """

    name: str
    value: float
    unit: str
    op: str
    goal: float

    @property
    def met(self) -> bool:
        """Whether the value meets the goal."""
        return bool(_OPERATORS[self.op](self.value, self.goal))


def write(name: str, checks: list[Check], details: dict[str, Any]) -> Path:
    """Write the figures, print a line per check, and return the file."""
    path = Path("var/bench") / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"checks": [asdict(check) for check in checks], **details}, indent=2) + "\n")
    for check in checks:
        mark = "met" if check.met else "MISSED"
        print(f"{check.name}: {check.value:,.3f} {check.unit} (goal {check.op} {check.goal:g}: {mark})")
    print(f"wrote {path}")
    return path
