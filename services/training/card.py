"""The model card: what a version is for, what it was made from, how good and how fair it is, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from libs.artifact import Manifest
from services.training.evaluation import Evaluation
from services.training.fairness import Comparison, Rate
from services.training.gates import Gate, Outcome
from services.training.spec import TrainingSpec

_WORDS = {
    Outcome.PASSED: "passed",
    Outcome.FAILED: "**failed**",
    Outcome.NOT_ENOUGH_EVIDENCE: "**not enough evidence**",
}


def model_card(manifest: Manifest, spec: TrainingSpec, evaluation: Evaluation) -> str:
    """Return the card in Markdown."""
    parts = [
        f"# {manifest.model_version}",
        _intended_use(manifest),
        _data(manifest, spec, evaluation),
        _metrics(evaluation),
        _gates(evaluation.gates),
        _fairness(spec, evaluation),
        _limits(spec, evaluation),
        _inputs(manifest),
    ]
    return "\n\n".join(parts) + "\n"


def _intended_use(manifest: Manifest) -> str:
    purposes = ", ".join(f"`{purpose}`" for purpose in manifest.purposes)
    allowed = (
        f"It may be used for {purposes} and nothing else; the purposes are those of its training data, and every call"
        " is held to them."
        if purposes
        else "Its training data states no purposes."
    )
    return (
        "## Intended use\n\nEstimates the probability that the outcome of the newest label cut-off of its training set"
        f" comes true for an entity. {allowed} A prediction is an aid to a person's decision, not a decision."
    )


def _data(manifest: Manifest, spec: TrainingSpec, evaluation: Evaluation) -> str:
    splits = evaluation.report["splits"]
    table = _table(
        ("split", "rows", "positives", "used for"),
        [
            (name, str(splits[name]["rows"]), str(splits[name]["positives"]), use)
            for name, use in (
                ("train", "weights; all label cut-offs"),
                ("validation", "when to stop"),
                ("calibration", "calibration and the threshold of the fairness gate"),
                ("gate", "the gates"),
                ("test", "the figures below, once"),
            )
        ],
    )
    layers = " × ".join(str(size) for size in spec.hidden_sizes)
    return (
        f"## Data and training\n\nTrained by `{manifest.training_run}` on `{manifest.training_set}` (SHA-256"
        f" `{manifest.training_set_digest}`) with features of `{manifest.feature_service}`. Splits are by entity, disjoint"
        f" over all cut-offs; all but the first hold the newest cut-off only.\n\n{table}\n\nA network of {layers} hidden"
        f" units on piecewise linear features, {spec.world_size} ranks, seed {spec.seed},"
        f" {len(evaluation.report['epochs'])} epochs; Platt calibration."
    )


def _metrics(evaluation: Evaluation) -> str:
    report = evaluation.report
    return (
        "## Performance\n\nOn the untouched test split of"
        f" {report['test_rows']} entities: AUC {report['test_auc']:.4f}, expected calibration error"
        f" {report['test_ece']:.4f}."
    )


def _gates(gates: Sequence[Gate]) -> str:
    rows = [
        (gate.name, _WORDS[gate.outcome], f"{gate.value:.4g}", f"{gate.bound:g}", gate.unit, gate.detail)
        for gate in gates
    ]
    return "## Gates\n\n" + _table(("gate", "outcome", "value", "bound", "unit", "detail"), rows)


def _fairness(spec: TrainingSpec, evaluation: Evaluation) -> str:
    if not spec.protected_attributes:
        return "## Fairness\n\nNot measured: the run named no protected attribute."
    tables = [
        f"### {attribute.display_name}\n\n{_groups(comparison)}"
        for attribute, (_, comparison) in zip(spec.protected_attributes, evaluation.comparisons, strict=True)
    ]
    head = (
        f"Error rates by group at a probability of {evaluation.threshold:.3f}, with 95 % intervals. The attributes were"
        " read for this comparison under the purpose `fairness_audit` and are not inputs."
    )
    return "\n\n".join(["## Fairness", head, *tables])


def _groups(comparison: Comparison) -> str:
    rows = [
        (group.name, str(group.rows), _rate(group.true_positive_rate), _rate(group.false_positive_rate))
        for group in comparison.groups
    ]
    return _table(("group", "rows", "true-positive rate", "false-positive rate"), rows)


def _limits(spec: TrainingSpec, evaluation: Evaluation) -> str:
    report = evaluation.report
    lines = [
        _robustness(report),
        "- It knows the population and the time of its training set only; drift is not visible in these figures.",
        "- A missing value is filled with the median of training; a feature never missing there has no indicator for it.",
        "- Values beyond the range of training count as the nearest end of that range.",
    ]
    lines += [
        f"- {name}: no statement about {', '.join(comparison.left_out)}; fewer than"
        f" {spec.gate_bounds.min_group_evidence} positives or negatives."
        for name, comparison in evaluation.comparisons
        if comparison.left_out
    ]
    return "## Limits\n\n" + "\n".join(lines)


def _robustness(report: dict[str, Any]) -> str:
    if not report["attack"]:
        return "- No feature was declared as changeable, so robustness to manipulation is not known."
    return (
        f"- Ranking falls from an AUC of {report['clean_auc']:.3f} to {report['attack_auc']:.3f} when every entity moves"
        f" the {len(report['attack'])} features it could change in the worst direction within their bounds."
    )


def _inputs(manifest: Manifest) -> str:
    rows = list(zip(manifest.feature_names, manifest.feature_descriptions, strict=True))
    return "## Inputs\n\n" + _table(("feature", "meaning"), rows)


def _rate(rate: Rate) -> str:
    return f"{rate.value:.3f} ({rate.low:.3f} to {rate.high:.3f})" if rate.cases else "no cases"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [[_cell(text) for text in line] for line in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
