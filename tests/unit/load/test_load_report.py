"""The report of a run: figures as JSON that any reader takes, and a page that needs nothing else."""

from __future__ import annotations

import json
import math
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks.report import Check
from loadtests import page
from loadtests.__main__ import duration
from loadtests.ledger import Ledger, Result
from loadtests.memory import growth_percent
from loadtests.page import Band, Line
from loadtests.report import Disturbances, LoadReport, write
from loadtests.verdict import Generators, Outcome


def report() -> LoadReport:
    ledger = Ledger()
    for second in range(30):
        ledger.add(Result("features", "Read", 1000.0 + second, 0.02, 10, 20))
    ledger.add(Result("inference", "Infer", 1005.0, 0.02, error="INTERNAL <INTERNAL>"))
    disturbances = Disturbances([("kill -9 <inference>", 1010.0, 1014.0)], "inference", math.nan, ["ana"])
    memory = [(1000.0 + second, {"features": 100.0 + second}) for second in range(30)]
    checks = [Check("p99_ms_features", 20.0, "ms", "<=", 300.0), Check("load_failures", 1, "calls", "<=", 0)]
    return LoadReport(
        "ramp", 30.0, 4, ledger, Generators(1, 0, 0.0, 2, False), disturbances, memory, checks, [], Outcome.BROKEN
    )


def test_the_figures_are_json_and_the_page_is_well_formed(tmp_path: Path) -> None:
    figures, html = write(report(), tmp_path)
    content = json.loads(figures.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert content["outcome"] == "broken"
    assert content["services"]["features"]["calls"] == 30
    assert content["services"]["features"]["sent_bytes"] == 300
    assert content["services"]["inference"]["p99_ms"] is None
    assert content["disturbances"]["back_seconds"] is None
    text = html.read_text()
    assert text.count("<svg") == 4
    assert "<INTERNAL>" not in text
    assert "<inference>" not in text
    for part in text.split("<svg")[1:]:
        ET.fromstring("<svg" + part.split("</svg>")[0] + "</svg>")


def test_a_chart_is_broken_where_there_is_no_number() -> None:
    drawn = page.chart("t", "x", "y", [Line("a", [(0, 1), (1, math.nan), (2, 3), (3, 4)])], [Band("b", 1, 2)], limit=9)
    assert drawn.count("<polyline") == 2


def test_an_empty_chart_can_be_drawn() -> None:
    assert "<svg" in page.chart("t", "x", "y", [])


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0), (3, 4021), (0, 0.004), (-5, 5)])
def test_ticks_cover_their_range(low: float, high: float) -> None:
    ticks = page.ticks(low, high)
    assert ticks[0] <= low
    assert ticks[-1] >= high
    assert 2 <= len(ticks) <= 9


def test_growth_compares_the_second_fifth_with_the_last() -> None:
    flat = [(float(at), {"a": 50.0, "b": 50.0}) for at in range(50)]
    assert growth_percent(flat) == pytest.approx(0.0)
    warming = [(at, {"a": 10.0 if at < 10 else 100.0}) for at, _ in flat]
    assert growth_percent(warming) == pytest.approx(0.0)
    leaking = [(at, {"a": 100.0 + at}) for at, _ in flat]
    assert growth_percent(leaking) == pytest.approx(100 * (144.5 - 114.5) / 114.5)
    with pytest.raises(ValueError, match="5 samples"):
        growth_percent(flat[:4])


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("10m", 600), ("1.5h", 5400)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == seconds
