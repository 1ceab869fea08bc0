"""``python -m loadtests.capacity``: writes ``docs/guide/capacity.md`` from what the benchmark and a load run found."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from loadtests.verdict import Outcome
from simulator.basis import is_sound

PAGE = Path("docs/guide/capacity.md")
# Of the best goodput: what is left over takes bursts, a lost replica's share, and the time until a new one serves.
USED_SHARE = 0.6
# A replica may be lost at any time.
LEAST = 2
LOADS = (50, 100, 250, 500, 1000, 2500, 5000)
NAMES = {
    "predictions": "inference, predictions by key",
    "features": "features, online reads",
    "ingest": "ingestion, appends",
}
MADE_BY = (
    "Made by `python -m loadtests.capacity` from `var/bench/suite.json`; do not edit. Measure on the machines you mean to "
    "use (`make bench-suite`), then make this page again."
)
MEASURED = (
    "One replica of each service on one machine that also ran the generator and the rest of the suite, so a replica on "
    "cores of its own does more. In time means within the deadline, counted from when the call was due."
)
RULE = (
    f"Each replica used up to {USED_SHARE:.0%} of its best, and never fewer than {LEAST}. Appends to one dataset are "
    "written one after the other: more replicas do not speed up one dataset."
)


def replicas(load: float, best: float, share: float = USED_SHARE) -> int:
    """Return how many replicas a load takes, each used up to a share of its best.

    Args:
        load: calls a second.
        best: calls a second that one replica answers in time.
        share: of that, to use.
    """
    return max(LEAST, math.ceil(load / (best * share)))


def render(suite: Mapping[str, Any], load: Mapping[str, Any] | None) -> str:
    """Return the page."""
    sweeps = {name: sweep for name, sweep in suite["sweeps"].items() if name in NAMES}
    best = {name: max(point["goodput"] for point in sweep["points"]) for name, sweep in sweeps.items()}
    rows = [
        [
            NAMES[name],
            sweep["rows_per_call"],
            f"{best[name]:,.0f}",
            f"{sweep['deadline_s']:g} s",
            f"{_twice(sweep):,.0f}",
        ]
        for name, sweep in sweeps.items()
    ]
    parts = [
        "# Capacity",
        MADE_BY,
        "## What was measured",
        MEASURED,
        _table(["service", "rows a call", "calls a second in time", "deadline", "at twice the saturation"], rows),
        _warnings(suite),
        "## Replicas for a load",
        RULE,
        _table(
            ["calls a second", *(NAMES[name] for name in sweeps)],
            [[f"{load_:,}", *(str(replicas(load_, best[name])) for name in sweeps)] for load_ in LOADS],
        ),
        "## Memory and start",
        _table(
            ["service", "resident MiB after the soak", "seconds to start"],
            [
                [name, f"{used:,.0f}", f"{suite['start_seconds'].get(name, math.nan):.1f}"]
                for name, used in sorted(suite["soak"]["rss_mib"].items())
            ],
        ),
    ]
    if load is not None:
        parts += [
            "## A mixed load",
            f"From `make load`: {load['users']} users, {load['seconds']:.0f} s, {load['outcome']}.",
        ]
        mixed = [
            [
                name,
                f"{each['per_second']:,.1f}",
                *(_number(each[key]) for key in ("p50_ms", "p99_ms")),
                str(each["failed"]),
            ]
            for name, each in load["services"].items()
        ]
        parts.append(_table(["service", "calls a second", "p50 ms", "p99 ms", "failed"], mixed))
    return "\n\n".join(part for part in parts if part) + "\n"


def _twice(sweep: Mapping[str, Any]) -> float:
    most: float = max(sweep["points"], key=lambda point: point["offered"])["goodput"]
    return most


def _warnings(suite: Mapping[str, Any]) -> str:
    """Return which checks of the run were missed: they weaken everything below."""
    missed = [check for check in suite["checks"] if not _met(check)]
    if not missed:
        return ""
    told = ", ".join(
        f"`{check['name']}` {check['value']:,.2f} (goal {check['op']} {check['goal']:g})" for check in missed
    )
    return f"**This run missed some of its goals, so take its figures for rough ones:** {told}."


def _met(check: Mapping[str, Any]) -> bool:
    value, goal = check["value"], check["goal"]
    return bool({">=": value >= goal, "<=": value <= goal, "==": value == goal}[check["op"]])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def main() -> int:
    """Read the figures and write the page; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.capacity", description=__doc__.partition("\n")[0])
    parser.add_argument("--suite", type=Path, default=Path("var/bench/suite.json"), help="from `make bench-suite`")
    parser.add_argument(
        "--load", type=Path, default=Path("var/load/report.json"), help="from `make load`, if there is one"
    )
    parser.add_argument("--page", type=Path, default=PAGE, help="where the page goes")
    options = parser.parse_args()
    if not options.suite.exists():
        print(f"{options.suite} is missing; run `make bench-suite` first", file=sys.stderr)
        return 2
    suite = json.loads(options.suite.read_text())
    if not is_sound(suite):
        why = "; ".join(suite.get("void", [])) or "its generator ran late, or did not say how it did"
        print(
            f"{options.suite} is void, so no page is made of it: {why}; run `make bench-suite` again", file=sys.stderr
        )
        return int(Outcome.VOID)
    load = json.loads(options.load.read_text()) if options.load.exists() else None
    options.page.write_text(render(suite, load), encoding="utf-8")
    print(f"wrote {options.page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
