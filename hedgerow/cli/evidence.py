"""What is known about a training run or a model version, drawn for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hedgerow.cli import output
from hedgerow.cli.plots import Axis, bar, curve

_OUTCOMES = {"passed": "✓", "failed": "✗", "not enough evidence": "?"}


def training_curve(epochs: Sequence[Any]) -> list[str]:
    """Returns the validation AUC of the epochs so far as a curve, and the last epoch in words."""
    if not epochs:
        return ["no epoch has ended yet"]
    last = epochs[-1]
    points = [(float(epoch.epoch), epoch.validation_auc) for epoch in epochs]
    x, y = Axis(1, max(last.epoch, 2), "{:.0f}"), Axis.around([auc for _, auc in points], "{:.4f}")
    told = (
        f"epoch {last.epoch}: validation AUC {last.validation_auc:.4f}, validation loss {last.validation_loss:.4f}, "
        f"training loss {last.train_loss:.4f}"
    )
    return ["validation AUC by epoch", *curve(points, x, y), told]


def gates(version: Any) -> list[dict[str, Any]]:
    """Returns the gates of a version as rows: outcome, value, bound, and what was found."""
    rows = []
    for gate in version.gates:
        name = gate.DESCRIPTOR.fields_by_name["outcome"].enum_type.values_by_number[gate.outcome].name
        word = output.text(name)
        mark = _OUTCOMES.get(word, " ")
        rows.append(
            {
                "gate": gate.name,
                "outcome": f"{mark} {word}",
                "value": gate.value,
                "bound": gate.bound,
                "unit": gate.unit,
                "detail": gate.detail,
            }
        )
    return rows


def report(version: Any) -> list[str]:
    """Returns the ROC curve on the test split and the error rates by group, as far as the version has them."""
    evaluation = json.loads(version.evaluation_json or "{}")
    lines = []
    roc = [(float(point[0]), float(point[1])) for point in evaluation.get("test_roc", [])]
    if roc:
        auc = evaluation.get("test_auc")
        title = "ROC on the test split" + (f", AUC {auc:.4f}" if auc is not None else "")
        unit = Axis(0.0, 1.0, "{:.0f}")
        lines += ["", f"{title}: true-positive rate by false-positive rate", *curve(roc, unit, unit, width=40)]
    for comparison in evaluation.get("groups", []):
        lines += ["", f"{comparison['display_name'] or comparison['attribute']}: error rates by group"]
        lines += _groups(comparison["groups"])
    return lines


def _groups(groups: Sequence[dict[str, Any]]) -> list[str]:
    width = max((len(group["name"]) for group in groups), default=0)
    lines = []
    for label, key in (("true-positive rate", "true_positive"), ("false-positive rate", "false_positive")):
        lines.append(f"  {label}")
        for group in groups:
            rate = group[f"{key}_rate"]
            if rate is None:
                lines.append(f"    {group['name'].ljust(width)}  too few cases")
                continue
            low, high = group[f"{key}_low"], group[f"{key}_high"]
            between = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
            lines.append(f"    {group['name'].ljust(width)}  {bar(rate, 1.0)} {rate:.3f}{between}")
    return lines
