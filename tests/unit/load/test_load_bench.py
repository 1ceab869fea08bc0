"""The benchmark of the suite: what its probes found counts only when they were not the bottleneck."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.suite.__main__ import Steady, _parser, figures, reasons
from benchmarks.suite.sweep import Point, Sweep, point
from loadtests.ledger import Ledger, Result
from loadtests.local_run import LocalRun

GOOD = Point(100.0, 99.0, 5.0, 20.0, 0, 0, 0.4, 2.0, {}, [])
SAMPLES = [(float(at), {"features": 100.0}) for at in range(10)]
CALM = Steady(SAMPLES, 0, 0, 0, 0.0, 60.0, 3.0, [])


def found(
    lag: float = 0.001, cpu: float = 4.0, *, calls: int = 100, unsent: int = 0, lags: int = 100
) -> dict[str, object]:
    ledger = Ledger()
    for second in range(calls):
        ledger.add(Result("features", "Read", 1000.0 + second % 10, 0.02))
    ledger.add_generator("probe", cpu, 10.0, [lag] * lags)
    return {"ledger": ledger.to_json(), "seconds": 10.0, "unsent": unsent}


def test_a_good_probe_is_not_void() -> None:
    made = point("features", "open", 10.0, found())
    assert (made.goodput, made.void) == (10.0, [])


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (found(lag=0.9), "late"),
        (found(cpu=9.5), "core"),
        (found(unsent=3), "3 calls were not sent"),
        (found(calls=0), "no call was made"),
    ],
)
def test_a_probe_that_was_the_bottleneck_is_void(probe: dict[str, object], reason: str) -> None:
    [why] = point("features", "open", 10.0, probe).void
    assert reason in why


def test_a_probe_without_calls_has_its_own_lag_still() -> None:
    assert point("features", "open", 10.0, found(lag=0.9, calls=0)).generator_lag_ms > 850


def test_a_probe_that_tells_nothing_of_itself_is_no_probe() -> None:
    with pytest.raises(RuntimeError, match="features"):
        point("features", "open", 10.0, found(lags=0))


LATE = replace(GOOD, generator_lag_ms=400.0, void=["late"])
BUSY = replace(GOOD, generator_cores=0.95, void=["busy"])
FULL = replace(GOOD, unsent=4, void=["full"])


@pytest.mark.parametrize(
    ("sweep", "scaled", "calm", "missed"),
    [
        (Sweep("features", GOOD, [GOOD]), {"features": {"1": GOOD}}, CALM, set()),
        (Sweep("features", LATE, [GOOD]), {}, CALM, {"generator_lag_ms"}),
        (Sweep("features", GOOD, [LATE, GOOD]), {}, CALM, {"generator_lag_ms"}),
        (Sweep("features", GOOD, [GOOD]), {"features": {"1": GOOD, "2": BUSY}}, CALM, {"generator_headroom_percent"}),
        (Sweep("features", GOOD, [FULL]), {}, CALM, {"unsent"}),
        (Sweep("features", GOOD, [GOOD]), {}, replace(CALM, void=["a generator ended early"]), set()),
        (
            Sweep("features", GOOD, [GOOD]), {}, replace(CALM, void=["late"], lag_ms=400.0, headroom=2.0),
            {"generator_lag_ms", "generator_headroom_percent"},
        ),
    ],
)  # fmt: skip
def test_each_probe_counts_towards_what_makes_the_run_void(
    sweep: Sweep, scaled: dict[str, dict[str, Point]], calm: Steady, missed: set[str]
) -> None:
    void = reasons([sweep], calm, CALM, scaled)
    checks = figures(LocalRun(Path("none"), 1), [sweep], calm, CALM, scaled, void)
    assert {check.name for check in checks if not check.met} == missed | ({"void_reasons"} if void else set())
    assert bool(void) == bool(missed or calm.void)


def test_a_service_that_crashed_and_came_back_is_told() -> None:
    sweep = Sweep("features", GOOD, [GOOD])
    checks = figures(LocalRun(Path("none"), 1), [sweep], replace(CALM, restarts=1), CALM, {}, [])
    assert [check.name for check in checks if not check.met] == ["unexpected_restarts"]


def test_the_ports_can_be_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEDGEROW_PORT_BASE", "20000")
    assert _parser().parse_args([]).port_base == 20000
    monkeypatch.delenv("HEDGEROW_PORT_BASE")
    assert _parser().parse_args([]).port_base == 8600
