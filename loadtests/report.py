"""``report.json`` and ``report.html`` of a load run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.report import Check
from loadtests import page
from loadtests.ledger import Ledger
from loadtests.page import Band, Line
from loadtests.verdict import Generators, Outcome

PLOT_POINTS = 120


@dataclass
class Disturbances:
    """What was done to the suite during the run; times in seconds since 1970.

    Attributes:
        windows: name, begin and end of each.
        killed: the service that was killed, or nothing.
        back_seconds: how long it took until it served again.
        rotated: services whose certificate was replaced during the run, and people.
    """

    windows: list[tuple[str, float, float]] = field(default_factory=list)
    killed: str = ""
    back_seconds: float = math.nan
    rotated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class LoadReport:
    """Everything of a run."""

    shape: str
    seconds: float
    users: int
    ledger: Ledger
    generators: Generators
    disturbances: Disturbances
    memory: Sequence[tuple[float, Mapping[str, float]]]
    checks: Sequence[Check]
    void: Sequence[str]
    outcome: Outcome


def write(report: LoadReport, folder: Path) -> tuple[Path, Path]:
    """Write both files and return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    figures, html = folder / "report.json", folder / "report.html"
    figures.write_text(json.dumps(_finite(to_json(report)), indent=2) + "\n")
    html.write_text(render(report), encoding="utf-8")
    return figures, html


def to_json(report: LoadReport) -> dict[str, Any]:
    """Return the figures."""
    return {
        "checks": [asdict(check) for check in report.checks],
        "outcome": report.outcome.name.lower(),
        "void": list(report.void),
        "shape": report.shape,
        "seconds": report.seconds,
        "users": report.users,
        "services": {service: summary(report, service) for service in sorted(report.ledger.services)},
        "errors": report.ledger.errors,
        "generators": {
            **asdict(report.generators),
            "lag_p99_ms": report.ledger.lag.percentile_ms(0.99),
            "busiest_cores": report.ledger.busiest(),
        },
        "disturbances": asdict(report.disturbances),
    }


def summary(report: LoadReport, service: str) -> dict[str, float]:
    """Return one service's figures."""
    tally = report.ledger.services[service]
    return {
        "calls": tally.calls,
        "per_second": tally.calls / report.seconds,
        "p50_ms": tally.latencies.percentile_ms(0.5),
        "p95_ms": tally.latencies.percentile_ms(0.95),
        "p99_ms": tally.latencies.percentile_ms(0.99),
        "failed": tally.failed,
        "retried": tally.retried,
        "sent_bytes": tally.sent,
        "received_bytes": tally.received,
    }


def _finite(value: Any) -> Any:
    """Return it with null for what is no number: JSON has no NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value


def render(report: LoadReport) -> str:
    """Return the page."""
    says = {
        Outcome.KEPT: "All budgets are kept.",
        Outcome.BROKEN: "A budget is broken.",
        Outcome.VOID: "This run is void: " + "; ".join(report.void) + ".",
    }[report.outcome]
    begin = min(report.ledger.seconds, default=0)
    bands = [Band(name, start - begin, end - begin) for name, start, end in report.disturbances.windows]
    rows = [(service, *summary(report, service).values()) for service in sorted(report.ledger.services)]
    head = (
        "service",
        "calls",
        "per second",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "failed",
        "retried",
        "bytes sent",
        "received",
    )
    parts = [
        page.check_table(report.checks),
        page.heading("Services", "Latency is the caller's, over all attempts of a call."),
        page.table(head, rows),
        *_charts(report, begin, bands),
    ]
    if report.ledger.errors:
        parts += [page.heading("What failed"), page.table(("call", "times"), sorted(report.ledger.errors.items()))]
    many = report.generators.workers or 1
    lead = f"{says} Shape {report.shape}, up to {report.users} users, {report.seconds:.0f} s, generators: {many}."
    return page.page("Load on the suite", lead, parts)


def _charts(report: LoadReport, begin: int, bands: Sequence[Band]) -> list[str]:
    width = max(1, math.ceil((max(report.ledger.seconds, default=0) - begin + 1) / PLOT_POINTS))
    buckets: dict[int, Ledger] = {}
    for second, tallies in report.ledger.seconds.items():
        bucket = buckets.setdefault((second - begin) // width * width, Ledger())
        part = Ledger()
        part.services = tallies
        bucket.merge(part)
    times = sorted(buckets)
    services = sorted(report.ledger.services)

    def series(value: Any) -> list[Line]:
        return [
            Line(
                name, [(time, value(buckets[time].services[name])) for time in times if name in buckets[time].services]
            )
            for name in services
        ]

    charts = [
        page.chart("Calls a second", "seconds", "", series(lambda tally: tally.calls / width), bands),
        page.chart("p99, ms", "seconds", "", series(lambda tally: tally.latencies.percentile_ms(0.99)), bands),
        page.chart("Calls that failed", "seconds", "", series(lambda tally: tally.failed), bands),
    ]
    if report.memory:
        names = sorted(report.memory[-1][1])
        lines = [Line(n, [(at - begin, used[n]) for at, used in report.memory if n in used]) for n in names]
        charts.append(page.chart("Resident memory, MiB", "seconds", "", lines, bands))
    return charts
