"""Writes the report of a run: one HTML page without outside resources, and one JSON with the checks."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from examples.credit.report import charts
from examples.credit.report.charts import Axis, Line, RangeDot
from examples.credit.report.model import Check, GroupRates, ModelFacts, Rate, Report

_TEMPLATES = Path(__file__).parent / "templates"
_SIGNS = {"==": "=", ">=": "≥", "<=": "≤"}
_CHECK_WORDS = {
    "auc": "AUC on untouched clients",
    "ece": "Calibration error",
    "rows_ingested": "Rows ingested",
    "rows_quarantined": "Broken rows quarantined",
    "backfill_changed_rows": "Training rows changed by a late row",
    "refused_model_promoted": "Refused models promoted",
    "online_offline_bytes_equal": "Online equals offline, byte for byte",
    "prediction_max_abs_diff": "Two ways to predict differ by",
    "explanation_completeness_gap": "Explanation completeness gap",
    "purpose_refusals": "Wrong purposes refused",
    "identity_refusals": "Wrong identities refused",
    "audit_verified": "Audit trail verifies",
    "audit_tamper_found": "A changed byte is found",
    "erased_subject_hits": "Traces of the erased client",
    "plaintext_files": "Files with readable data",
    "demo_seconds": "Time in all",
    "rss_mib": "Memory of the suite",
}
_OUTCOMES = {"passed": ("yes", "✓ passed"), "failed": ("no", "✗ failed")}


def write(report: Report, folder: Path) -> tuple[Path, Path]:
    """Writes `report.html` and `report.json` to the folder, which is made if need be, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, figures = folder / "report.html", folder / "report.json"
    page.write_text(render(report), encoding="utf-8")
    figures.write_text(json.dumps(checks_json(report), indent=2) + "\n", encoding="utf-8")
    return page, figures


def checks_json(report: Report) -> Mapping[str, object]:
    """Returns the checks in the one form that every benchmark and demo of the suite writes."""
    return {
        "run": report.run,
        "checks": [
            {"name": check.name, "value": check.value, "unit": check.unit, "op": check.op, "goal": check.goal}
            for check in report.checks
        ],
    }


def render(report: Report) -> str:
    """Returns the page."""
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "percent": _percent,
        "figure": figure,
        "goal": goal,
        "measured": measured,
        "outcome": _outcome,
        "check_words": _check_words,
        "wbr": _breakable,
    }
    met = sum(check.met for check in report.checks)
    return environment.get_template("page.html.j2").render(
        r=report, charts=_charts(report), met=met, headline=_headline(report, met)
    )


def _headline(report: Report, met: int) -> str:
    clients = max((dataset.rows for dataset in report.datasets[:1]), default=0)
    missed = len(report.checks) - met
    proven = "every hop proven" if missed == 0 else f"{missed} of {len(report.checks)} proofs missing"
    return f"{clients:,} clients in, one explained prediction out, {proven}."


def figure(value: float) -> str:
    """Returns a number for people: whole numbers in full, tiny ones as powers of ten, others with four digits."""
    if math.isnan(value):
        return "not measured"
    if float(value).is_integer():
        return f"{value:,.0f}"
    return f"{value:.1e}" if abs(value) < 1e-4 else f"{value:,.4g}"


def measured(check: Check, value: float) -> str:
    """Returns a value or a goal of a check for people."""
    return ("no", "yes")[int(value)] if check.unit == "bool" else figure(value)


def goal(check: Check) -> str:
    """Returns the goal of a check for people, such as `≥ 0.77 AUC`."""
    if check.unit == "bool":
        return measured(check, check.goal)
    return f"{_SIGNS[check.op]} {figure(check.goal)} {check.unit}"


def _number(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    return "too few" if math.isnan(value) else f"{value:.1%}"


def _check_words(name: str) -> str:
    return _CHECK_WORDS.get(name, name.replace("_", " "))


def _breakable(name: str) -> Markup:
    return Markup("<wbr>").join(
        part + "." if index == 0 and "." in name else part for index, part in enumerate(name.split("."))
    )


def _outcome(outcome: str) -> Markup:
    style, text = _OUTCOMES.get(outcome, ("unsure", outcome))
    return Markup('<span class="{}">{}</span>').format(style, text)


def _charts(report: Report) -> Mapping[str, object]:
    champion, challenger = report.champion, report.challenger
    return {
        "auc": _auc_chart([champion, challenger]),
        "loss": _loss_chart(champion),
        "roc": _roc_chart([model for model in (champion, challenger) if model.roc]),
        "reliability": _reliability_chart(champion),
        "fairness": _fairness_charts(champion.groups),
        "attributions": _attribution_chart(report),
        "timeline": charts.timeline(
            "How long each step took", [(step.title, step.start, step.seconds) for step in report.timings]
        ),
    }


def _epoch_axis(models: Sequence[ModelFacts]) -> Axis:
    last = max(len(model.epochs) for model in models)
    return charts.nice_axis("epoch", [0, float(last)])


def _auc_chart(models: Sequence[ModelFacts]) -> Markup:
    lines = [
        Line(model.version, [(epoch.number, epoch.validation_auc) for epoch in model.epochs], style, dots=True)
        for model, style in zip(models, "ab", strict=True)
    ]
    values = [y for line in lines for _, y in line.points]
    return charts.line_chart(
        "Validation AUC by epoch for both models", lines, _epoch_axis(models), charts.nice_axis("", values)
    )


def _loss_chart(model: ModelFacts) -> Markup:
    lines = [
        Line("training", [(epoch.number, epoch.train_loss) for epoch in model.epochs], "a", dots=True),
        Line("validation", [(epoch.number, epoch.validation_loss) for epoch in model.epochs], "b", dots=True),
    ]
    values = [y for line in lines for _, y in line.points]
    return charts.line_chart(
        "Training and validation loss by epoch", lines, _epoch_axis([model]), charts.nice_axis("", values)
    )


def _roc_chart(models: Sequence[ModelFacts]) -> Markup:
    lines = [Line("chance", [(0, 0), (1, 1)], "ideal")]
    lines += [Line(model.version, model.roc, style) for model, style in zip(models, "ab", strict=False)]
    x, y = Axis("false positive rate", 0, 1, 0.25), Axis("true positive rate", 0, 1, 0.25)
    title = "ROC curve: " + ", ".join(f"{model.version} AUC {model.auc:.3f}" for model in models)
    return charts.line_chart(title, lines, x, y)


def _reliability_chart(model: ModelFacts) -> Markup:
    points = [(bin_.predicted, bin_.observed) for bin_ in model.reliability]
    top = max([0.0] + [value for point in points for value in point])
    limit, step = (1.0, 0.25) if top > 0.8 else (0.8, 0.2) if top > 0.6 else (0.6, 0.2)
    x, y = Axis("predicted probability", 0, limit, step), Axis("share that defaulted", 0, limit, step)
    lines = [Line("perfect", [(0, 0), (limit, limit)], "ideal"), Line("clients", points, "a", dots=True)]
    return charts.line_chart(f"Calibration: expected calibration error {model.ece:.4f}", lines, x, y)


def _fairness_charts(groups: Sequence[GroupRates]) -> list[tuple[str, Markup, Sequence[GroupRates]]]:
    drawn: list[tuple[str, Markup, Sequence[GroupRates]]] = []
    for attribute in dict.fromkeys(group.attribute for group in groups):
        rows = [group for group in groups if group.attribute == attribute]
        dots = [
            (
                row.group,
                [
                    _range_dot("true positive rate", "a", row.true_positive),
                    _range_dot("false positive rate", "b", row.false_positive),
                ],
            )
            for row in rows
        ]
        drawn.append((attribute, charts.range_dots(f"Error rates by {attribute}", dots), rows))
    return drawn


def _range_dot(what: str, style: str, rate: Rate) -> RangeDot:
    return RangeDot(what, style, rate.value, rate.low, rate.high)


def _attribution_chart(report: Report) -> Markup:
    items = [(reason.feature.split(".")[-1].replace("_", " "), reason.attribution) for reason in report.serving.reasons]
    items.append(("all other features", report.serving.other_attribution))
    return charts.diverging_bars(
        "What moved this prediction", items, "less likely to default", "more likely to default"
    )
