"""What a training run is asked to do, and the bounds that its model must keep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from hedgerow import names
from hedgerow.errors import InvalidArgumentError

MAX_WORLD_SIZE: Final = 8
MAX_EPOCHS: Final = 1000
MAX_BATCH_SIZE: Final = 65_536
MAX_HIDDEN_LAYERS: Final = 8
MAX_HIDDEN_SIZE: Final = 4096
MAX_HIDDEN_WEIGHTS: Final = 8_000_000
MAX_PROTECTED_ATTRIBUTES: Final = 8
MAX_GROUPS: Final = 16
MAX_TEXT: Final = 64


@dataclass(frozen=True, slots=True)
class ProtectedAttribute:
    """An attribute that outcomes are compared by.

    Attributes:
        feature: ``view.feature``.
        display_name: for people.
        band_edges: lower edges of the bands after the first, ascending; empty when each value 1, 2, … is a group.
        group_names: the groups in order.
    """

    feature: str
    display_name: str
    band_edges: tuple[float, ...]
    group_names: tuple[str, ...]

    @property
    def short_name(self) -> str:
        """The feature without its view."""
        return self.feature.rpartition(".")[2]

    def groups_of(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        """Return the index of each value's group, shape [n]; -1 where it is missing or in no group."""
        known = np.isfinite(values)
        safe = np.where(known, values, 0.0)
        if self.band_edges:
            index = np.searchsorted(np.asarray(self.band_edges), safe, side="right")
        else:
            index = np.where(safe == np.rint(safe), safe - 1, -1).astype(np.int64)
        inside = known & (index >= 0) & (index < len(self.group_names))
        return np.where(inside, index, -1).astype(np.int64)


@dataclass(frozen=True, slots=True)
class GateBounds:
    """Bounds that a version must keep to be promoted; see ``GateBounds`` of the contract."""

    min_auc: float
    max_ece: float
    max_latency_p99_ms: float
    max_equalized_odds_difference: float
    min_robust_auc: float
    min_group_evidence: int


@dataclass(frozen=True, slots=True)
class TrainingSpec:
    """What to train, on what, and how; see ``TrainingSpec`` of the contract."""

    training_set: str
    model: str
    world_size: int
    seed: int
    max_epochs: int
    batch_size: int
    learning_rate: float
    hidden_sizes: tuple[int, ...]
    dropout: float
    weight_decay: float
    protected_feature_service: str
    protected_attributes: tuple[ProtectedAttribute, ...]
    gate_bounds: GateBounds

    def check(self) -> None:
        """Check every field.

        Raises:
            InvalidArgumentError: all faults at once, by field.
        """
        faults = {f"spec.{field}": wanted for field, wanted in self._faults()}
        if faults:
            first = next(iter(faults))
            raise InvalidArgumentError(f"{first}: {faults[first]}", fields=faults)

    def _faults(self) -> Iterator[tuple[str, str]]:
        yield from _name_fault("training_set", "trainingSets/{training_set}", self.training_set)
        yield from _name_fault("model", "models/{model}", self.model)
        yield from _range_faults(
            {
                "world_size": (self.world_size, 1, MAX_WORLD_SIZE),
                "max_epochs": (self.max_epochs, 1, MAX_EPOCHS),
                "batch_size": (self.batch_size, max(2, self.world_size), MAX_BATCH_SIZE),
                "weight_decay": (self.weight_decay, 0, 1e3),
            }
        )
        if not 0 < self.learning_rate <= 1e3:
            yield "learning_rate", "expected a number above 0, at most 1000"
        if not 0 <= self.dropout < 1:
            yield "dropout", "expected 0 to below 1"
        if not 1 <= len(self.hidden_sizes) <= MAX_HIDDEN_LAYERS:
            yield "hidden_sizes", f"expected 1 to {MAX_HIDDEN_LAYERS} layers"
        if not all(1 <= size <= MAX_HIDDEN_SIZE for size in self.hidden_sizes):
            yield "hidden_sizes", f"expected sizes of 1 to {MAX_HIDDEN_SIZE}"
        if sum(a * b for a, b in itertools.pairwise(self.hidden_sizes)) > MAX_HIDDEN_WEIGHTS:
            yield "hidden_sizes", f"expected layers with at most {MAX_HIDDEN_WEIGHTS} weights between them"
        yield from self._bound_faults()
        yield from self._protected_faults()

    def _bound_faults(self) -> Iterator[tuple[str, str]]:
        bounds = self.gate_bounds
        shares = ("min_auc", "max_ece", "max_equalized_odds_difference", "min_robust_auc")
        yield from _range_faults({f"gate_bounds.{name}": (getattr(bounds, name), 0, 1) for name in shares})
        if not 0 < bounds.max_latency_p99_ms < math.inf:
            yield "gate_bounds.max_latency_p99_ms", "expected milliseconds above 0"
        if self.protected_attributes and bounds.min_group_evidence < 1:
            yield "gate_bounds.min_group_evidence", "expected at least 1"

    def _protected_faults(self) -> Iterator[tuple[str, str]]:
        attributes = self.protected_attributes
        if len(attributes) > MAX_PROTECTED_ATTRIBUTES:
            yield "protected_attributes", f"expected at most {MAX_PROTECTED_ATTRIBUTES}"
        if len({attribute.short_name for attribute in attributes}) < len(attributes):
            yield "protected_attributes", "expected distinct features; a gate is named by the part after the dot"
        if attributes or self.protected_feature_service:
            pattern = "featureServices/{feature_service}"
            yield from _name_fault("protected_feature_service", pattern, self.protected_feature_service)
        for position, attribute in enumerate(attributes):
            for field, wanted in _attribute_faults(attribute):
                yield f"protected_attributes[{position}].{field}", wanted


def _attribute_faults(attribute: ProtectedAttribute) -> Iterator[tuple[str, str]]:
    view, dot, feature = attribute.feature.partition(".")
    if not (dot and view and feature) or len(attribute.feature) > 2 * MAX_TEXT:
        yield "feature", "expected the form view.feature"
    if not 1 <= len(attribute.display_name) <= MAX_TEXT:
        yield "display_name", f"expected 1 to {MAX_TEXT} characters"
    edges, groups = attribute.band_edges, attribute.group_names
    if not all(math.isfinite(edge) for edge in edges) or list(edges) != sorted(set(edges)):
        yield "band_edges", "expected finite numbers in ascending order"
    if not 2 <= len(groups) <= MAX_GROUPS or len(set(groups)) < len(groups):
        yield "group_names", f"expected 2 to {MAX_GROUPS} distinct names"
    elif edges and len(groups) != len(edges) + 1:
        yield "group_names", f"expected {len(edges) + 1} names, one more than there are band edges"
    if not all(1 <= len(group) <= MAX_TEXT for group in groups):
        yield "group_names", f"expected names of 1 to {MAX_TEXT} characters"


def _name_fault(field: str, pattern: str, value: str) -> Sequence[tuple[str, str]]:
    try:
        names.parse(pattern, value, field=field)
    except InvalidArgumentError:
        return [(field, f"expected the form {pattern}")]
    return []


def _range_faults(ranges: Mapping[str, tuple[float, float, float]]) -> Iterator[tuple[str, str]]:
    for field, (value, least, most) in ranges.items():
        if not least <= value <= most:
            yield field, f"expected {least:g} to {most:g}"
