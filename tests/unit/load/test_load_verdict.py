"""Budgets: kept, broken, and runs that do not count because the generator was the bottleneck."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from loadtests.ledger import Ledger, Result
from loadtests.locust_kinds import KINDS
from loadtests.verdict import (
    Generators,
    Outcome,
    checks,
    failures_between,
    headroom_percent,
    load_budgets,
    outcome,
    void_reasons,
)

GOOD = Generators(
    workers=2, missing_workers=0, longest_silence_seconds=3.0, most_in_flight=8, ended_early=False
)  # fmt: skip


def ledger(seconds: float = 0.01, error: str = "") -> Ledger:
    made = Ledger()
    for service in load_budgets().p99_ms:
        for second in range(100):
            made.add(Result(service, "Call", 1000.0 + second, seconds))
    if error:
        made.add(Result("features", "Call", 1050.0, 0.5, error=error))
    made.add_generator("one", 30.0, 100.0, [0.001] * 100)
    return made


def judged(made: Ledger, generators: Generators = GOOD) -> Outcome:
    budgets = load_budgets()
    return outcome(checks(made, budgets), void_reasons(made, generators, budgets))


def test_every_kind_of_user_has_a_budget() -> None:
    assert set(load_budgets().p99_ms) == {kind.name for kind in KINDS}


def test_a_good_run_keeps_its_budgets_and_exits_with_zero() -> None:
    assert int(judged(ledger())) == 0


def test_a_slow_service_breaks_its_budget() -> None:
    made = ledger(seconds=3.0)
    assert judged(made) is Outcome.BROKEN
    assert [check.name for check in checks(made, load_budgets()) if not check.met] == sorted(
        f"p99_ms_{service}" for service in load_budgets().p99_ms
    )


def test_one_failed_call_breaks_a_budget() -> None:
    assert judged(ledger(error="INTERNAL INTERNAL")) is Outcome.BROKEN


def test_a_service_that_was_not_called_breaks_a_budget() -> None:
    made = ledger()
    del made.services["secrets"]
    assert judged(made) is Outcome.BROKEN


@pytest.mark.parametrize(
    ("cpu", "lag", "generators", "word"),
    [
        (95.0, 0.001, GOOD, "core"),
        (30.0, 0.9, GOOD, "late"),
        (30.0, 0.001, replace(GOOD, missing_workers=1), "missing"),
        (30.0, 0.001, replace(GOOD, longest_silence_seconds=20.0), "silent"),
        (30.0, 0.001, replace(GOOD, ended_early=True), "a generator ended early"),
    ],
)
def test_a_run_whose_generator_was_the_bottleneck_is_void(
    cpu: float, lag: float, generators: Generators, word: str
) -> None:
    made = ledger()
    made.cpu.clear()
    made.lag.buckets.clear()
    made.add_generator("one", cpu, 100.0, [lag] * 100)
    [reason] = void_reasons(made, generators, load_budgets())
    assert word in reason
    assert judged(made, generators) is Outcome.VOID
    assert int(Outcome.VOID) not in (0, 1)


@pytest.mark.parametrize("what", ["cpu", "lag"])
def test_a_generator_that_tells_nothing_of_itself_makes_a_run_void(what: str) -> None:
    made = ledger()
    (made.cpu if what == "cpu" else made.lag.buckets).clear()
    assert void_reasons(made, GOOD, load_budgets()) == ["the generator did not tell how it did itself"]
    assert judged(made) is Outcome.VOID
    assert headroom_percent(made) == (0.0 if what == "cpu" else pytest.approx(70.0))


def test_headroom_is_that_of_the_busiest_process() -> None:
    made = ledger()
    made.add_generator("two", 60.0, 100.0, [])
    assert headroom_percent(made) == pytest.approx(40.0)


def test_a_run_without_calls_is_void() -> None:
    assert judged(Ledger()) is Outcome.VOID


def test_failures_count_for_a_disturbance_only_near_it() -> None:
    made = ledger(error="UNAVAILABLE DOWN")
    assert failures_between(made, [(1048.0, 1052.0)], 15.0) == 1
    assert failures_between(made, [(1000.0, 1010.0)], 15.0) == 0


def test_a_missing_budget_is_named(tmp_path: Path) -> None:
    file = tmp_path / "budgets.toml"
    file.write_text("[services.features]\np99_ms = 10\n")
    with pytest.raises(ValueError, match="run"):
        load_budgets(file)
