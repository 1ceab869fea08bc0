"""What one replica can do, as measured: from ``var/bench/suite.json`` if that is sound, else from ``basis.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SUITE = Path("var/bench/suite.json")
RECORDED = Path(__file__).with_name("basis.json")
TARGETS = {"inference": "predictions", "features": "features"}


@dataclass(frozen=True)
class Basis:
    """Measured figures of one service.

    Attributes:
        service: its name.
        calls_per_second: the best goodput of one replica.
        start_seconds: from the start of its process until it serves.
        provenance: where the figures come from, in words.
    """

    service: str
    calls_per_second: float
    start_seconds: float
    provenance: str

    @property
    def mean_seconds(self) -> float:
        """Seconds of work of a call."""
        return 1.0 / self.calls_per_second


def load_basis(service: str, suite: Path = SUITE) -> Basis:
    """Return the figures of a service.

    Raises:
        KeyError: none were measured.
    """
    recorded = json.loads(RECORDED.read_text())
    content: dict[str, Any] = json.loads(suite.read_text()) if suite.exists() else {}
    if not is_sound(content):
        found = recorded["services"][service]
        return Basis(service, found["calls_per_second"], found["start_seconds"], recorded["provenance"])
    points = content["sweeps"][TARGETS[service]]["points"]
    return Basis(
        service,
        max(point["goodput"] for point in points),
        content["start_seconds"][service],
        f"{suite}: the best goodput of a sweep, on one machine with its generator",
    )


def is_sound(content: Mapping[str, Any]) -> bool:
    """Return whether there are figures, and they are of the suite and not of a generator that was the bottleneck."""
    checks = {check["name"]: check for check in content.get("checks", [])}
    return all(
        name in checks and checks[name]["value"] <= checks[name]["goal"]
        for name in ("generator_lag_ms", "void_reasons")
    )
