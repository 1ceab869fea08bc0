"""Step 4: the evidence of both versions, and a promotion that only one of them gets."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from examples.credit.report.model import Gate, GroupRates, ModelFacts, Rate, ReliabilityBin
from examples.credit.run import CREDIT_RISK, DemoError, Run
from examples.credit.steps.train import Trained
from hedgerow.errors import FailedPreconditionError, NotFoundError
from hedgerow.models.v1 import models_pb2 as pb
from hedgerow.sdk.training import Models

ALIAS = "champion"
_OUTCOMES = {
    pb.GateResult.OUTCOME_PASSED: "passed",
    pb.GateResult.OUTCOME_FAILED: "failed",
    pb.GateResult.OUTCOME_NOT_ENOUGH_EVIDENCE: "not enough evidence",
}


@dataclass(frozen=True)
class Promoted:
    """Both versions with what the registry decided."""

    champion: ModelFacts
    challenger: ModelFacts


async def promote(run: Run, good: Trained, worse: Trained) -> Promoted:
    """Asks for the promotion of both versions, under the same alias and the same bounds."""
    champion = await _promote(run, good)
    if not champion.promoted:
        raise DemoError(f"{champion.version} was refused: {champion.refusal}")
    challenger = await _promote(run, worse)
    check_bounds(champion.gates, challenger.gates)
    return Promoted(champion, challenger)


def check_bounds(left: Sequence[Gate], right: Sequence[Gate]) -> None:
    """Both versions must have been held to the same bounds, or the refusal of one proves nothing."""
    if {gate.name: gate.bound for gate in left} != {gate.name: gate.bound for gate in right}:
        raise DemoError("the two versions were not held to the same bounds")


async def _promote(run: Run, trained: Trained) -> ModelFacts:
    models = run.caller("ben", CREDIT_RISK).models
    version = await models.get_model_version(trained.model_version)
    for gate in version.gates:
        run.say(
            f"{short(version.name)} {gate.name}: {gate.value:.4g} against {gate.bound:.4g}, {_OUTCOMES[gate.outcome]}"
        )
    refusal = ""
    try:
        await models.promote(version.name, ALIAS)
        run.say(f"{short(version.name)} is now {ALIAS}")
    except FailedPreconditionError as error:
        if error.reason != "GATE_NOT_PASSED":
            raise
        refusal = error.message
        run.say(f"{short(version.name)} is refused: {error.message}")
    return _facts(trained, version, refusal, promoted=await _holds_alias(models, version.name))


async def _holds_alias(models: Models, version: str) -> bool:
    """Returns whether the alias names the version, whatever the answer to the promotion was."""
    try:
        found = await models.get_model_version(f"{version.rpartition('/')[0]}/{ALIAS}")
    except NotFoundError:
        return False
    return found.name == version


def short(version: str) -> str:
    """Returns `model/version` for `models/model/versions/version`."""
    _, model, _, number = version.split("/")
    return f"{model}/{number}"


def _facts(trained: Trained, version: pb.ModelVersion, refusal: str, *, promoted: bool) -> ModelFacts:
    evaluation = json.loads(version.evaluation_json)
    return ModelFacts(
        version=short(version.name),
        run=trained.name,
        world_size=trained.world_size,
        epochs=trained.epochs,
        gates=[
            Gate(each.name, _OUTCOMES[each.outcome], each.value, each.bound, each.unit, each.detail)
            for each in version.gates
        ],
        promoted=promoted,
        refusal=refusal,
        seconds=trained.seconds,
        card=version.card,
        auc=evaluation["test_auc"],
        ece=evaluation["test_ece"],
        roc=[(float(x), float(y)) for x, y in evaluation["test_roc"]],
        reliability=[
            ReliabilityBin(each["mean_probability"], each["positive_share"], each["count"])
            for each in evaluation["test_reliability"]
        ],
        groups=[
            _group(comparison["display_name"], group)
            for comparison in evaluation["groups"]
            for group in comparison["groups"]
        ],
    )


def _group(attribute: str, group: Mapping[str, Any]) -> GroupRates:
    true, false = (
        Rate(*(_number(group[f"{kind}_positive_{part}"]) for part in ("rate", "low", "high")))
        for kind in ("true", "false")
    )
    return GroupRates(attribute, group["name"], group["rows"], group["positives"], true, false)


def _number(value: float | None) -> float:
    """Returns a measured value; what could not be measured has no number in JSON."""
    return math.nan if value is None else float(value)
