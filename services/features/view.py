"""Feature views and feature services: what is computed, from which columns, and what it may be used for.

A view computes features of one entity from the rows of one dataset. It inherits limits from the columns its
expressions read: its purposes are those that every such column allows, its tags are all of theirs. The entity and time
columns only place a row; they give nothing of their own to a value, so they neither widen nor narrow these.

Views and feature services never change once created, so their compiled form can be cached for ever.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from services.features.entity import EntityKey, entity_key
from services.features.expression import Expression, compile_expression, invalid
from services.features.source import SourceContract

MAX_FEATURES = 500
MAX_WINDOW_MONTHS = 1_200
MAX_TTL_SECONDS = 100 * 366 * 86_400
_FEATURE_NAME = re.compile(r"[a-z0-9_]{1,64}")


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a view, as the caller wrote it.

    Attributes:
        expression: a SQL aggregate over the rows in the window.
        window_months: calendar months that end with the as-of time; 0 means all history.
        mutable_fraction: relative distance within which a client could change it; 0 means it cannot.
    """

    name: str
    expression: str
    window_months: int = 0
    description: str = ""
    mutable_fraction: float = 0.0


@dataclass(frozen=True)
class FeatureView:
    """A checked feature view.

    Attributes:
        view_id: the id in `featureViews/{feature_view}`.
        source: the contract of its dataset.
        entity: how its entities are named.
        compiled: the expressions, one per feature.
        ttl_seconds: how long values stay usable after the newest event time they rest on; 0 means for ever.
    """

    view_id: str
    source: SourceContract
    entity: EntityKey
    features: tuple[Feature, ...]
    compiled: tuple[Expression, ...]
    ttl_seconds: int = 0
    description: str = ""

    @cached_property
    def columns(self) -> frozenset[str]:
        """The dataset's columns that the expressions read."""
        return frozenset().union(*(expression.columns for expression in self.compiled))

    @cached_property
    def purposes(self) -> frozenset[str]:
        """The purposes that every column read allows."""
        return shared_purposes(self.source, self.columns)

    @cached_property
    def tags(self) -> frozenset[str]:
        """The sensitivity tags of the columns read."""
        return frozenset().union(*(column.tags for column in self.source.in_order(self.columns)))

    @cached_property
    def schema_version(self) -> bytes:
        """8 bytes that change with anything that changes what a stored value means."""
        parts = [f"{each.name}\0{each.expression}\0{each.window_months}" for each in self.features]
        return hashlib.sha256("\1".join([self.source.dataset, self.entity.column, *parts]).encode()).digest()[:8]


@dataclass(frozen=True)
class FeatureService:
    """The ordered features that a model reads: those of its views, view by view."""

    service_id: str
    views: tuple[FeatureView, ...]

    @property
    def entity(self) -> EntityKey:
        """How its entities are named; the same in all views."""
        return self.views[0].entity

    @cached_property
    def features(self) -> tuple[Feature, ...]:
        """The features in the order of every block."""
        return tuple(feature for view in self.views for feature in view.features)

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """`view.feature` in the order of every block."""
        return tuple(f"{view.view_id}.{feature.name}" for view in self.views for feature in view.features)

    @cached_property
    def purposes(self) -> frozenset[str]:
        """The purposes that all its views allow."""
        return frozenset.intersection(*(view.purposes for view in self.views))

    @cached_property
    def tags(self) -> frozenset[str]:
        """The tags of all its views."""
        return frozenset().union(*(view.tags for view in self.views))


def shared_purposes(contract: SourceContract, columns: frozenset[str]) -> frozenset[str]:
    """Return the purposes that every one of the columns allows; of no column, those that any column allows."""
    allowed = [column.purposes for column in contract.in_order(columns)]
    if allowed:
        return frozenset.intersection(*allowed)
    return frozenset().union(*(column.purposes for column in contract.columns))


def define_view(
    view_id: str,
    contract: SourceContract,
    entity_column: str,
    features: Sequence[Feature],
    *,
    ttl_seconds: int = 0,
    description: str = "",
    field: str = "feature_view",
) -> FeatureView:
    """Check the parts of a view and return it.

    Args:
        field: path of the view in the request, the start of the paths named in errors.

    Raises:
        InvalidArgumentError: a part is wrong; the field is named.
    """
    if not 1 <= len(features) <= MAX_FEATURES:
        raise invalid(f"{field}.features", f"expected 1 to {MAX_FEATURES} features")
    if not 0 <= ttl_seconds <= MAX_TTL_SECONDS:
        raise invalid(f"{field}.ttl_seconds", f"expected 0 (for ever) to {MAX_TTL_SECONDS}")
    seen: set[str] = set()
    for index, feature in enumerate(features):
        _check_feature(feature, seen, f"{field}.features[{index}]")
    compiled = tuple(
        compile_expression(
            feature.expression, contract, field=f"{field}.features[{index}].expression", outcomes_allowed=False
        )
        for index, feature in enumerate(features)
    )
    view = FeatureView(
        view_id=view_id,
        source=contract,
        entity=entity_key(contract, entity_column, f"{field}.entity_column"),
        features=tuple(features),
        compiled=compiled,
        ttl_seconds=ttl_seconds,
        description=description,
    )
    if not view.purposes:
        raise invalid(f"{field}.features", "no purpose allows all the columns read; split the view by purpose")
    return view


def define_service(
    service_id: str, views: Sequence[FeatureView], *, field: str = "feature_service.feature_views"
) -> FeatureService:
    """Check that the views fit together and return the feature service.

    Raises:
        InvalidArgumentError: no view, one twice, different entities, or no purpose that all allow.
    """
    if not views:
        raise invalid(field, "expected at least one feature view")
    if len({view.view_id for view in views}) < len(views):
        raise invalid(field, "a feature view is named twice")
    for index, view in enumerate(views):
        if view.entity != views[0].entity:
            raise invalid(
                f"{field}[{index}]",
                f"has the entity {view.entity}, the first view has {views[0].entity}; all must have the same",
            )
    service = FeatureService(service_id, tuple(views))
    if len(service.features) > MAX_FEATURES:
        raise invalid(field, f"has more than {MAX_FEATURES} features in all")
    if not service.purposes:
        raise invalid(field, "no purpose allows all the views; make one feature service per purpose")
    return service


def _check_feature(feature: Feature, seen: set[str], path: str) -> None:
    if not _FEATURE_NAME.fullmatch(feature.name):
        raise invalid(f"{path}.name", "expected 1 to 64 of [a-z0-9_]")
    if feature.name in seen:
        raise invalid(f"{path}.name", f"{feature.name!r} is already a feature of this view")
    seen.add(feature.name)
    if not 0 <= feature.window_months <= MAX_WINDOW_MONTHS:
        raise invalid(f"{path}.window_months", f"expected 0 (all history) to {MAX_WINDOW_MONTHS}")
    # Written so that NaN fails too.
    if not 0.0 <= feature.mutable_fraction <= 1_000.0:
        raise invalid(f"{path}.mutable_fraction", "expected a number from 0 to 1000")
