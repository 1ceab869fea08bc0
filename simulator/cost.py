"""What replicas cost: their requests for CPU and memory, as the manifests state them, at a price by the hour."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

BASE = Path(__file__).resolve().parents[1] / "deploy" / "k8s" / "base"
_MEMORY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
_GIB = 2**30


@dataclass(frozen=True)
class Requests:
    """What one replica asks for: CPUs and GiB."""

    cpus: float
    gib: float


@dataclass(frozen=True)
class Prices:
    """Of a CPU and of a GiB of memory for an hour."""

    cpu_hour: float
    gib_hour: float

    def cost(self, requests: Requests, replica_hours: float) -> float:
        """Return what replicas cost."""
        return replica_hours * (requests.cpus * self.cpu_hour + requests.gib * self.gib_hour)


def load_requests(service: str, folder: Path = BASE) -> Requests:
    """Return the requests of a service's main container.

    Raises:
        ValueError: its manifest states none.
    """
    for document in yaml.safe_load_all((folder / f"{service}.yaml").read_text()):
        if document and document["kind"] in ("StatefulSet", "Deployment"):
            for container in document["spec"]["template"]["spec"]["containers"]:
                asked = container.get("resources", {}).get("requests", {})
                if "cpu" in asked and "memory" in asked:
                    return Requests(cpus(asked["cpu"]), gib(asked["memory"]))
    raise ValueError(f"{folder / service}.yaml states no requests for CPU and memory")


def cpus(text: str) -> float:
    """Return CPUs from a quantity such as ``500m`` or ``2``."""
    return float(text[:-1]) / 1000 if text.endswith("m") else float(text)


def gib(text: str) -> float:
    """Return GiB from a quantity such as ``512Mi``."""
    unit = text[-2:]
    return (float(text[:-2]) * _MEMORY[unit] if unit in _MEMORY else float(text)) / _GIB
