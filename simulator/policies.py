"""The autoscaling policies of the manifests, as they are simulated: HorizontalPodAutoscalers and ScaledObjects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

COMPONENTS = Path(__file__).resolve().parents[1] / "deploy" / "k8s" / "components"
# What Kubernetes takes where a policy says nothing (autoscaling/v2, HPAScalingRules).
DEFAULT_UP = {
    "stabilizationWindowSeconds": 0,
    "policies": [
        {"type": "Percent", "value": 100, "periodSeconds": 15},
        {"type": "Pods", "value": 4, "periodSeconds": 15},
    ],
}
DEFAULT_DOWN = {
    "stabilizationWindowSeconds": 300,
    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
}


class PolicyError(Exception):
    """A manifest holds what the simulator cannot run; the message says what."""


@dataclass(frozen=True)
class Limit:
    """How much may change in a period: ``value`` pods, or percent of what there was at its begin."""

    percent: bool
    value: int
    seconds: int


@dataclass(frozen=True)
class Direction:
    """How fast replicas may change one way: the limits, of which the widest (or the narrowest) holds."""

    window_seconds: int
    limits: Sequence[Limit]
    widest: bool = True
    disabled: bool = False


@dataclass(frozen=True)
class Policy:
    """One policy.

    Attributes:
        name: kind and service, such as ``hpa inference``.
        service: what it scales.
        least, most: replicas.
        target: calls in flight on each replica that it aims at.
        up, down: how fast.
    """

    name: str
    service: str
    least: int
    most: int
    target: float
    up: Direction
    down: Direction


def load_policies(folder: Path = COMPONENTS) -> list[Policy]:
    """Read all policies below a folder, by name.

    Raises:
        PolicyError: one cannot be simulated, or there is none.
    """
    found = []
    for file in sorted(folder.rglob("*.yaml")):
        for document in yaml.safe_load_all(file.read_text()):
            kind = document.get("kind") if isinstance(document, dict) else None
            if kind == "HorizontalPodAutoscaler":
                found.append(_hpa(document))
            elif kind == "ScaledObject":
                found.append(_scaled_object(document))
    if not found:
        raise PolicyError(f"there is no autoscaling policy below {folder}")
    return sorted(found, key=lambda policy: policy.name)


def _hpa(document: Mapping[str, Any]) -> Policy:
    name, spec = document["metadata"]["name"], document["spec"]
    metrics = [each for each in spec["metrics"] if each["type"] == "Pods"]
    if len(metrics) != 1 or len(spec["metrics"]) != 1:
        raise PolicyError(f"the HorizontalPodAutoscaler {name} must have one metric, of type Pods")
    target = metrics[0]["pods"]["target"]
    if target["type"] != "AverageValue":
        raise PolicyError(f"the target of the HorizontalPodAutoscaler {name} must be an AverageValue")
    return _policy("hpa", document, spec["minReplicas"], spec["maxReplicas"], target["averageValue"], spec)


def _scaled_object(document: Mapping[str, Any]) -> Policy:
    """KEDA hands its metric to a HorizontalPodAutoscaler of its own, which then decides."""
    name, spec = document["metadata"]["name"], document["spec"]
    if [each["type"] for each in spec["triggers"]] != ["prometheus"]:
        raise PolicyError(f"the ScaledObject {name} must have one trigger, of type prometheus")
    if spec.get("minReplicaCount", 0) < 1:
        raise PolicyError(f"the ScaledObject {name} scales to zero, which the simulator does not know")
    [trigger] = spec["triggers"]
    inner = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
    threshold = trigger["metadata"]["threshold"]
    return _policy("keda", document, spec["minReplicaCount"], spec["maxReplicaCount"], threshold, inner)


def _policy(
    kind: str, document: Mapping[str, Any], least: int, most: int, target: str, holder: Mapping[str, Any]
) -> Policy:
    service, behavior = document["spec"]["scaleTargetRef"]["name"], holder.get("behavior", {})
    up = _direction({**DEFAULT_UP, **behavior.get("scaleUp", {})})
    down = _direction({**DEFAULT_DOWN, **behavior.get("scaleDown", {})})
    return Policy(f"{kind} {service}", service, int(least), int(most), float(target), up, down)


def _direction(rules: Mapping[str, Any]) -> Direction:
    limits = [Limit(each["type"] == "Percent", each["value"], each["periodSeconds"]) for each in rules["policies"]]
    select = rules.get("selectPolicy", "Max")
    return Direction(rules["stabilizationWindowSeconds"], limits, select == "Max", select == "Disabled")
