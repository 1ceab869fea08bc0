"""What is computed from snapshots: training sets, offline answers, and values for the online store.

All blocking; run in worker threads. The three differ in which rows they ask the point-in-time engine for, and in
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from services.features.erasure import ErasureGate
from services.features.online_store import OnlineStore, StoredView, Values
from services.features.point_in_time import CHUNK_ROWS, NO_EVENT, PointInTime, combine
from services.features.snapshots import Snapshot
from services.features.source_rows import Rejections, needed_columns, prepare_rows
from services.features.training_set import LabelDefinition, build_rows
from services.features.view import FeatureService, FeatureView
from services.features.workers import Stop


@dataclass(frozen=True, slots=True)
class Block:
    """Features of n entities.

    Attributes:
        values: float64 [n, features]; NaN is null.
        statuses: uint8 [n] of `point_in_time.Status`.
    """

    values: npt.NDArray[np.float64]
    statuses: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Materialized:
    """What a materialization did."""

    entities: int
    rejected: int


def columns_by_dataset(
    service: FeatureService, labels: Sequence[LabelDefinition] = ()
) -> dict[str, tuple[list[str], frozenset[str]]]:
    """Return, for each dataset, the columns to open a snapshot with and those that expressions read.

    One snapshot per dataset serves all views and labels over it, so that they see the same version.
    """
    read: dict[str, frozenset[str]] = {}
    contracts = {view.source.dataset: view.source for view in service.views}
    contracts |= {label.contract.dataset: label.contract for label in labels}
    for view in service.views:
        read[view.source.dataset] = read.get(view.source.dataset, frozenset()) | view.columns
    for label in labels:
        read[label.contract.dataset] = read.get(label.contract.dataset, frozenset()) | label.expression.columns
    entity_column = service.entity.column
    return {name: (needed_columns(contracts[name], entity_column, columns), columns) for name, columns in read.items()}


def build_training_set(
    service: FeatureService,
    labels: Sequence[LabelDefinition],
    snapshots: Mapping[str, Snapshot],
    stop: Stop,
    *,
    memory_limit_mib: int,
) -> pa.Table:
    """Return the rows of a training set: see `training_set.build_rows`."""
    with PointInTime(memory_limit_mib=memory_limit_mib, checkpoint=stop) as engine:
        _load(engine, service, labels, snapshots, stop)
        return build_rows(engine, service, labels)


def offline_block(
    service: FeatureService,
    entities: Sequence[str],
    as_of_us: int,
    snapshots: Mapping[str, Snapshot],
    stop: Stop,
    *,
    memory_limit_mib: int,
) -> Block:
    """Return the features of stored entity keys as of a time."""
    with PointInTime(memory_limit_mib=memory_limit_mib, checkpoint=stop) as engine:
        _load(engine, service, (), snapshots, stop)
        found = [engine.features(view, entities, as_of_us) for view in service.views]
    return Block(np.hstack([each.values for each in found]), combine([each.statuses for each in found]))


def materialize(
    service: FeatureService,
    as_of_us: int,
    snapshots: Mapping[str, Snapshot],
    online: OnlineStore,
    gate: ErasureGate,
    progress: Callable[[int], None],
    stop: Stop,
    *,
    memory_limit_mib: int,
) -> Materialized:
    """Write the values of all entities as of a time to the online store.

    Args:
        progress: told the number of entities written so far.
    """
    with PointInTime(memory_limit_mib=memory_limit_mib, checkpoint=stop) as engine:
        rejected = _load(engine, service, (), snapshots, stop)
        entities = _union(engine.entities(view, as_of_us) for view in service.views)
        for start in range(0, len(entities), CHUNK_ROWS):
            chunk = entities[start : start + CHUNK_ROWS]
            for view in service.views:
                found = engine.features(view, chunk, as_of_us)
                _write(online, gate, view, chunk, Values(found.values, found.event_us), as_of_us)
            progress(start + len(chunk))
    return Materialized(len(entities), sum(each.total for each in rejected))


def stored_view(view: FeatureView) -> StoredView:
    """Return what the online store must know of a view."""
    return StoredView(view.view_id, view.schema_version, len(view.features))


def _write(
    online: OnlineStore, gate: ErasureGate, view: FeatureView, entities: Sequence[str], values: Values, as_of_us: int
) -> None:
    with gate.writing() as erased:
        keep = [i for i, entity in enumerate(entities) if values.event_us[i] != NO_EVENT and entity not in erased]
        kept = Values(values.values[keep], values.event_us[keep])
        online.write(stored_view(view), [entities[i] for i in keep], kept, as_of_us)


def _load(
    engine: PointInTime,
    service: FeatureService,
    labels: Sequence[LabelDefinition],
    snapshots: Mapping[str, Snapshot],
    stop: Stop,
) -> list[Rejections]:
    rejections = []
    for dataset, (_, read) in columns_by_dataset(service, labels).items():
        snapshot = snapshots[dataset]
        rows, rejected = prepare_rows(snapshot.read(stop), snapshot.contract, service.entity.column, read)
        engine.load(dataset, rows)
        rejections.append(rejected)
    return rejections


def _union(lists: Iterable[list[str]]) -> list[str]:
    return sorted(set().union(*lists))
