"""Training sets: labelled entities with their features as they were known at each label cut-off.

The rows are every entity with an outcome, once per cut-off, in the order (entity, as-of time). The digest covers the
feature names and every row in that order, so two sets with one digest are the same set. A row that became known after
a cut-off cannot change the features of that cut-off, so back-filling later changes neither set nor digest.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from services.features.expression import Expression, compile_expression, invalid
from services.features.point_in_time import PointInTime
from services.features.source import SourceContract
from services.features.view import FeatureService, shared_purposes

MAX_CUTOFFS = 120
MAX_HORIZON_MONTHS = 1_200
# A frame is one message of a stream: large enough to be cheap per row, far below any message limit.
FRAME_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Cutoff:
    """A label cut-off, as the caller wrote it.

    Attributes:
        as_of_us: features are as known at this time, inclusive; µs since 1970 UTC.
        dataset: holds the outcome, `datasets/{dataset}`.
        expression: a SQL boolean aggregate over the outcome rows of one entity.
        horizon_months: outcome rows end this many months after the as-of time; 0 takes all rows of the entity.
    """

    as_of_us: int
    dataset: str
    expression: str
    horizon_months: int


@dataclass(frozen=True, slots=True)
class LabelDefinition:
    """A checked cut-off."""

    cutoff: Cutoff
    contract: SourceContract
    expression: Expression


def define_labels(
    service: FeatureService,
    cutoffs: Sequence[Cutoff],
    contracts: dict[str, SourceContract],
    *,
    field: str = "training_set.cutoffs",
) -> tuple[LabelDefinition, ...]:
    """Check the cut-offs of a training set.

    Args:
        contracts: by dataset name, for each dataset that a cut-off names.

    Raises:
        InvalidArgumentError: none or too many, one time twice, an expression, column or horizon that does not fit, or
            a dataset that does not name the same entity.
    """
    if not 1 <= len(cutoffs) <= MAX_CUTOFFS:
        raise invalid(field, f"expected 1 to {MAX_CUTOFFS} label cut-offs")
    if len({cutoff.as_of_us for cutoff in cutoffs}) < len(cutoffs):
        raise invalid(field, "two cut-offs have the same as_of_time; a row is one entity at one time")
    return tuple(
        _define_label(service, cutoff, contracts[cutoff.dataset], f"{field}[{index}]")
        for index, cutoff in enumerate(cutoffs)
    )


def allowed_purposes(service: FeatureService, labels: Sequence[LabelDefinition]) -> frozenset[str]:
    """Return the purposes that all views and all label columns allow."""
    purposes = service.purposes
    for label in labels:
        purposes &= shared_purposes(label.contract, label.expression.columns)
    return purposes


def build_rows(engine: PointInTime, service: FeatureService, labels: Sequence[LabelDefinition]) -> pa.Table:
    """Compute a training set from datasets that are loaded into the engine.

    Returns:
        Rows in the order (entity, as_of_time): entity (string), as_of_time (timestamp[us, UTC]), label (int8), and one
        nullable float64 column per feature name.

    Raises:
        FailedPreconditionError: an expression failed on the data.
    """
    entities: list[str] = []
    as_of: list[npt.NDArray[np.int64]] = []
    outcomes: list[npt.NDArray[np.int8]] = []
    for label in labels:
        cutoff = label.cutoff
        found, values = engine.labels(label.contract, label.expression, cutoff.as_of_us, cutoff.horizon_months)
        entities.extend(found)
        outcomes.append(values)
        as_of.append(np.full(len(found), cutoff.as_of_us, np.int64))
    spine = pa.table(
        {
            "entity": pa.array(entities, pa.string()),
            "as_of_time": pa.array(np.concatenate(as_of)),
            "label": pa.array(np.concatenate(outcomes), pa.int8()),
        }
    ).sort_by([("entity", "ascending"), ("as_of_time", "ascending")])
    keys: list[str] = spine.column("entity").to_pylist()
    times = spine.column("as_of_time").to_numpy()
    blocks = [engine.features(view, keys, times).values for view in service.views]
    columns = [
        spine.column("entity"),
        pa.array(times).view(pa.timestamp("us", tz="UTC")),
        spine.column("label"),
        *(_nullable(block[:, index]) for block in blocks for index in range(block.shape[1])),
    ]
    return pa.table(columns, schema=row_schema(service.feature_names))


def row_schema(feature_names: Sequence[str]) -> pa.Schema:
    """Return the schema of the rows of a training set."""
    return pa.schema(
        [
            pa.field("entity", pa.string(), nullable=False),
            pa.field("as_of_time", pa.timestamp("us", tz="UTC"), nullable=False),
            pa.field("label", pa.int8(), nullable=False),
            *(pa.field(name, pa.float64()) for name in feature_names),
        ]
    )


def digest(rows: pa.Table) -> str:
    """Return the SHA-256 of the rows in order, hexadecimal.

    Covered are the feature names, each followed by a zero byte, then per row: the length of the entity (4 bytes), the
    entity in UTF-8, the as-of time (µs, 8 bytes), the label (1 byte), and the features as float64 with the one quiet
    NaN for null. All numbers are little-endian.
    """
    sha = hashlib.sha256()
    names = rows.column_names[3:]
    for name in names:
        sha.update(name.encode() + b"\0")
    for batch in rows.to_batches(max_chunksize=65_536):
        values = np.full((batch.num_rows, len(names)), np.nan, dtype="<f8")
        for index, name in enumerate(names):
            values[:, index] = pc.fill_null(batch.column(name), np.nan).to_numpy()
        times = batch.column(1).view(pa.int64()).to_numpy()
        for entity, time, label, features in zip(
            batch.column(0).to_pylist(), times, batch.column(2).to_numpy(), values, strict=True
        ):
            key = entity.encode()
            sha.update(struct.pack("<I", len(key)) + key + struct.pack("<qb", time, label) + features.tobytes())
    return sha.hexdigest()


def frames(rows: pa.Table) -> Iterator[bytes]:
    """Yield the rows as complete Arrow IPC streams of about `FRAME_BYTES`; at least one, so the schema is there."""
    row_bytes = max(1, rows.nbytes // max(1, rows.num_rows)) + 1
    step = max(1, FRAME_BYTES // row_bytes)
    for start in range(0, max(1, rows.num_rows), step):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows.slice(start, step))
        yield sink.getvalue().to_pybytes()


def read_frame(frame: bytes) -> pa.Table:
    """Return the rows of one frame."""
    return pa.ipc.open_stream(frame).read_all()


def _define_label(service: FeatureService, cutoff: Cutoff, contract: SourceContract, path: str) -> LabelDefinition:
    if not 0 <= cutoff.horizon_months <= MAX_HORIZON_MONTHS:
        raise invalid(f"{path}.horizon_months", f"expected 0 (all rows) to {MAX_HORIZON_MONTHS}")
    expression = compile_expression(cutoff.expression, contract, field=f"{path}.expression", outcomes_allowed=True)
    outcomes = {column.name for column in contract.columns if column.outcome}
    if cutoff.horizon_months == 0 and not expression.columns <= outcomes:
        raise invalid(
            f"{path}.horizon_months",
            "0 takes rows before the cut-off too, so the expression may read outcome columns only; state a horizon",
        )
    named = contract.column(service.entity.column)
    domain = contract.pseudonym_domain if named is not None and named.pseudonymized else ""
    if named is None or named.type is not service.entity.type or domain != service.entity.domain:
        raise invalid(f"{path}.dataset", f"{contract.dataset} does not name the entity {service.entity}")
    return LabelDefinition(cutoff, contract, expression)


def _nullable(values: npt.NDArray[np.float64]) -> pa.Array:
    return pa.array(values, pa.float64(), mask=np.isnan(values))
