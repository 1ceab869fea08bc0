"""Whether a run keeps its budgets, and whether it counts at all."""

from __future__ import annotations

import enum
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.report import Check
from loadtests.ledger import Ledger

BUDGETS = Path(__file__).with_name("budgets.toml")


class Outcome(enum.IntEnum):
    """What became of a run; the value is the exit code of its command."""

    KEPT = 0
    BROKEN = 1
    VOID = 3


@dataclass(frozen=True)
class Budgets:
    """Limits of a run; see ``budgets.toml``."""

    p99_ms: Mapping[str, float]
    failures: int
    headroom_percent: float
    lag_p99_ms: float
    silence_seconds: float


@dataclass(frozen=True)
class Generators:
    """How the generators did, beside what their ledger says.

    Attributes:
        workers: processes of Locust that reported to the master.
        missing_workers: those that did not to the end.
        longest_silence_seconds: between two reports of a worker.
        most_in_flight: calls of one generator at a time.
        ended_early: whether a generator died or had to be killed: what it had not told is missing.
    """

    workers: int
    missing_workers: int
    longest_silence_seconds: float
    most_in_flight: int
    ended_early: bool


def load_budgets(file: Path = BUDGETS) -> Budgets:
    """Read budgets.

    Raises:
        ValueError: a budget is missing; the message names it.
    """
    content = tomllib.loads(file.read_text())
    try:
        services: Mapping[str, Any] = content["services"]
        run = content["run"]
        return Budgets(
            {service: float(budget["p99_ms"]) for service, budget in services.items()},
            int(run["failures"]),
            float(run["generator_headroom_percent"]),
            float(run["generator_lag_p99_ms"]),
            float(run["longest_silence_seconds"]),
        )
    except KeyError as error:
        raise ValueError(f"{file} lacks the budget {error}") from None


def headroom_percent(ledger: Ledger) -> float:
    """Return how much of a core the busiest generator process left over; nothing when none told what it used."""
    return 100.0 * (1.0 - min(1.0, ledger.busiest())) if ledger.cpu else 0.0


def void_reasons(ledger: Ledger, generators: Generators, budgets: Budgets) -> list[str]:
    """Return why the generator and not the suite was measured; nothing when it was the suite."""
    reasons = bottlenecks(ledger, budgets)
    if generators.ended_early:
        reasons.append("a generator ended early")
    if generators.missing_workers:
        reasons.append(f"{generators.missing_workers} workers went missing")
    if generators.longest_silence_seconds > budgets.silence_seconds:
        reasons.append(f"a worker was silent for {generators.longest_silence_seconds:.0f} s")
    return reasons


def bottlenecks(ledger: Ledger, budgets: Budgets) -> list[str]:
    """Return what the ledger alone has against its generators."""
    reasons = []
    headroom, lag = headroom_percent(ledger), ledger.lag.percentile_ms(0.99)
    if not ledger.cpu or not ledger.lag.count:
        reasons.append("the generator did not tell how it did itself")
    elif headroom < budgets.headroom_percent:
        reasons.append(f"the busiest generator process left {headroom:.0f} % of a core")
    if lag > budgets.lag_p99_ms:
        reasons.append(f"a generator's event loop ran {lag:.0f} ms late (p99)")
    if not ledger.services:
        reasons.append("no call was made")
    return reasons


def failures(ledger: Ledger) -> int:
    """Return how many calls had no right answer."""
    return sum(tally.failed for tally in ledger.services.values())


def failures_between(ledger: Ledger, windows: Sequence[tuple[float, float]], deadline: float) -> int:
    """Return how many calls failed that a disturbance can have met: those that ended until ``deadline`` after one."""
    return sum(
        tally.failed
        for second, tallies in ledger.seconds.items()
        for tally in tallies.values()
        if any(begin - 1 <= second <= end + deadline for begin, end in windows)
    )


def checks(ledger: Ledger, budgets: Budgets) -> list[Check]:
    """Return what is measured beside its goal: the p99 of each service, failures and the generator's headroom."""
    found = [
        Check(f"p99_ms_{service}", tally.latencies.percentile_ms(0.99), "ms", "<=", budgets.p99_ms[service])
        for service, tally in sorted(ledger.services.items())
        if service in budgets.p99_ms
    ]
    found += [
        Check(f"calls_{service}", 0, "calls", ">=", 1) for service in sorted(set(budgets.p99_ms) - set(ledger.services))
    ]
    found.append(Check("load_failures", failures(ledger), "calls", "<=", budgets.failures))
    found.append(Check("generator_headroom_percent", headroom_percent(ledger), "%", ">=", budgets.headroom_percent))
    return found


def outcome(made: Sequence[Check], void: Sequence[str]) -> Outcome:
    """Return the outcome: a void run is neither good nor bad."""
    if void:
        return Outcome.VOID
    return Outcome.KEPT if all(check.met for check in made) else Outcome.BROKEN
