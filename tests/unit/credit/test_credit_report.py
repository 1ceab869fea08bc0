"""The report page and its figures."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from examples.credit.checks import checks
from examples.credit.report import charts, page
from examples.credit.report.model import Check, QuarantinedRow, ReasonFacts
from tests.unit.credit.sample_report import sample_report

_VOID = {"meta", "br", "wbr", "link", "img", "hr", "input"}


class _Balance(HTMLParser):
    """Checks that every element is closed where it must be."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"]] if values.get("id") else []
        self.targets += [values["href"]] if values.get("href") else []
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def html() -> str:
    return page.render(sample_report())


def test_the_page_is_well_formed_and_its_links_lead_somewhere(html: str) -> None:
    parser = _Balance()
    parser.feed(html)
    assert parser.open == []
    assert len(parser.ids) == len(set(parser.ids))
    assert {target.removeprefix("#") for target in parser.targets} <= set(parser.ids)


def test_the_page_needs_nothing_from_outside(html: str) -> None:
    assert not re.search(r"(src|href|url|@import)\s*[=(]?\s*[\"']?(https?:)?//", html)
    assert "<script" not in html


def test_every_chart_says_what_it_shows(html: str) -> None:
    drawn = re.findall(r"<svg [^>]*>", html)
    assert len(drawn) == 8
    assert all('role="img"' in tag and re.search(r'aria-label="[^"]{10,}"', tag) for tag in drawn)


def test_text_from_services_is_escaped() -> None:
    hostile = "<script>alert(1)</script>"
    report = sample_report()
    reason = ReasonFacts(f"view.{hostile}", 1.0, 0.5, hostile)
    report = replace(
        report,
        quarantine=[QuarantinedRow("clients", 1, hostile)],
        serving=replace(report.serving, reasons=[reason]),
        champion=replace(report.champion, card=hostile),
    )
    assert "<script" not in page.render(report)


def test_a_missed_goal_shows_in_the_headline(html: str) -> None:
    assert "1 of 3 proofs missing" in html
    met = replace(sample_report(), checks=[Check("auc", 0.78, "AUC", ">=", 0.77)])
    assert "every hop proven" in page.render(met)


def test_the_json_has_the_checks_in_the_common_form(tmp_path: Path) -> None:
    _, path = page.write(sample_report(), tmp_path / "demo")
    written = json.loads(path.read_text())
    assert written["checks"][0] == {"name": "auc", "value": 0.7794, "unit": "auc", "op": ">=", "goal": 0.77}


def test_checks_come_from_the_run() -> None:
    report = sample_report()
    found = {check.name: check for check in checks(report, max_gap=0.002, profile="embedded")}
    assert list(found) == [
        "auc", "ece", "rows_ingested", "rows_quarantined", "backfill_changed_rows", "refused_model_promoted",
        "online_offline_bytes_equal", "prediction_max_abs_diff", "explanation_completeness_gap", "purpose_refusals",
        "identity_refusals", "audit_verified", "audit_tamper_found", "erased_subject_hits", "plaintext_files",
        "demo_seconds", "rss_mib",
    ]  # fmt: skip
    assert all(check.met for check in found.values())
    worse = replace(
        report, erasure=replace(report.erasure, disk_hits=1), refusals=[replace(report.refusals[0], refused=False)]
    )
    missed = {check.name for check in checks(worse, max_gap=0.5, profile="embedded") if not check.met}
    assert missed == {"erased_subject_hits", "purpose_refusals", "explanation_completeness_gap"}


@pytest.mark.parametrize(
    ("values", "low", "high", "ticks"),
    [
        ([0.65, 0.7794], 0.65, 0.8, ["0.65", "0.70", "0.75", "0.80"]),
        ([0, 30], 0, 30, None),
        ([0.5, 0.5], 0.5, None, None),
        ([-3.2, 7.0], -5, 10, ["-5", "0", "5", "10"]),
    ],
)
def test_axes_cover_the_values_with_round_ticks(
    values: list[float], low: float, high: float | None, ticks: list[str] | None
) -> None:
    axis = charts.nice_axis("x", values)
    assert axis.low <= min(values)
    assert axis.high >= max(values)
    assert axis.low == pytest.approx(low)
    assert high is None or axis.high == pytest.approx(high)
    assert ticks is None or [axis.text(value) for value in axis.ticks()] == ticks
    assert 2 <= len(axis.ticks()) <= 8


@pytest.mark.parametrize(
    ("value", "text"), [(30000, "30,000"), (0.77941, "0.7794"), (3.1e-8, "3.1e-08"), (float("nan"), "not measured")]
)
def test_figures_are_short(value: float, text: str) -> None:
    assert page.figure(value) == text
