"""Step 5: the promoted version is deployed; an unmodified Triton client and predictions by entity must agree."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC

import numpy as np
import numpy.typing as npt
from tritonclient.grpc import InferInput, InferRequestedOutput

from examples.credit.report.model import ReasonFacts, ServeStep
from examples.credit.run import CREDIT_RISK, DemoError, Run
from hedgerow.inference.v1 import inference_pb2 as pb
from hedgerow.sdk import definitions, triton_client
from hedgerow.sdk.features import matrix

ROWS = 500
EXPLAINED = 100
REASONS = 6
_TRITON_SECONDS = 30.0
# Predictions are served from float32 layers and explained in float64.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Served:
    """What the step found; the largest completeness gap is over all explanations asked for."""

    facts: ServeStep
    max_gap: float


async def serve(run: Run) -> Served:
    """Deploys, predicts in two ways, and explains."""
    [definition] = run.of_kind("Deployment")
    deployed = await definitions.apply(run.caller("ben", CREDIT_RISK), definition)
    run.say(f"{deployed.name} serves {deployed.model_version}")
    app = run.caller("creditapp", CREDIT_RISK)
    keys = run.clients(range(1, ROWS + 1))
    answer = await app.inference.predict(deployed.name, keys)
    by_entity = np.array([prediction.probability for prediction in answer.predictions])
    if any(prediction.status != pb.Prediction.STATUS_OK for prediction in answer.predictions):
        raise DemoError("not every client has a prediction")
    # The tensor holds features computed from the lake, so the two ways share nothing but the model.
    as_of = run.of_kind("Materialization")[0].request.as_of_time.ToDatetime(UTC)
    service = run.name("featureServices", "credit_default")
    block = await run.caller("ben", CREDIT_RISK).features.get_offline_features(service, keys, as_of)
    if list(block.feature_names) != list(deployed.feature_names):
        raise DemoError("the deployment reads its features in another order than the feature service gives them")
    by_tensor = await asyncio.to_thread(_triton, run, deployed.name.partition("/")[2], matrix(block))
    difference = float(np.abs(by_entity - by_tensor).max())
    run.say(f"{ROWS} clients by key and by tensor through tritonclient: largest difference {difference:.1e}")

    explained = await app.inference.explain(deployed.name, keys[:EXPLAINED], top_reasons=REASONS)
    max_gap = largest_gap(explained.explanations)
    # The client with the highest risk makes the most telling explanation.
    index = int(np.argmax(by_entity[:EXPLAINED]))
    explanation = explained.explanations[index]
    run.say(f"a client at {explanation.prediction.probability:.1%}: {explanation.reasons[0].text}")
    facts = _facts(deployed, difference, explanation)
    return Served(facts, max_gap)


def _triton(run: Run, model: str, features: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Sends the rows as a tensor and returns one probability for each."""
    address = run.context.addresses["inference"]
    with triton_client(run.context.identity("creditapp"), address) as client:
        headers = {"hedgerow-purpose": CREDIT_RISK}
        metadata = client.get_model_metadata(model, headers=headers, client_timeout=_TRITON_SECONDS)
        [tensor] = metadata.inputs
        values = features.astype(np.float64 if tensor.datatype == "FP64" else np.float32)
        sent = InferInput(tensor.name, list(values.shape), tensor.datatype)
        sent.set_data_from_numpy(values)
        output = metadata.outputs[0].name
        result = client.infer(
            model,
            [sent],
            outputs=[InferRequestedOutput(output)],
            headers=headers,
            client_timeout=_TRITON_SECONDS,
        )
        answer = result.as_numpy(output)
        if answer is None:
            raise DemoError(f"the answer has no tensor {output}")
        probabilities: npt.NDArray[np.float64] = answer.astype(np.float64).reshape(len(values))
        return probabilities


def largest_gap(explanations: Sequence[pb.Explanation]) -> float:
    """Returns the largest completeness gap, reckoned here; NaN when one is no number.

    Each explanation must state the gap that it has, and explain the probability that was served.
    """
    gaps = []
    for each in explanations:
        gap = abs(math.fsum(each.attributions) - (each.logit - each.baseline_logit))
        # Written so that what is no number is refused too.
        if not abs(gap - each.completeness_gap) <= _ROUNDING:
            raise DemoError(f"an explanation states a gap of {each.completeness_gap:.3g}, but it is {gap:.3g}")
        explained = 0.5 * (1.0 + math.tanh(0.5 * each.logit))
        if not abs(explained - each.prediction.probability) <= _ROUNDING:
            raise DemoError(
                f"an explanation is of {explained:.6f}, but {each.prediction.probability:.6f} was predicted"
            )
        gaps.append(gap)
    return float(np.max(gaps))


def _facts(deployed: pb.Deployment, difference: float, explanation: pb.Explanation) -> ServeStep:
    reasons: Sequence[pb.Reason] = explanation.reasons
    return ServeStep(
        deployment=deployed.name,
        version=deployed.model_version,
        triton_rows=ROWS,
        entity_rows=ROWS,
        max_abs_diff=difference,
        probability=explanation.prediction.probability,
        logit=explanation.logit,
        baseline_logit=explanation.baseline_logit,
        completeness_gap=explanation.completeness_gap,
        reasons=[ReasonFacts(each.feature, each.value, each.attribution, each.text) for each in reasons],
        other_attribution=math.fsum(explanation.attributions) - math.fsum(each.attribution for each in reasons),
    )
