"""A statements dataset, views over it, and rows written as the tests think of them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from services.features.point_in_time import PointInTime
from services.features.source import ColumnType, SourceColumn, SourceContract
from services.features.source_rows import prepare_rows
from services.features.view import Feature, FeatureView, define_view

CREDIT = frozenset({"credit_risk"})
AUDITED = frozenset({"credit_risk", "fairness_audit"})
UTC_US = pa.timestamp("us", tz="UTC")

STATEMENTS = SourceContract(
    dataset="datasets/statements",
    columns=(
        SourceColumn("client_id", ColumnType.STRING, CREDIT, frozenset({"pii"}), pseudonymized=True),
        SourceColumn("statement_time", ColumnType.TIMESTAMP, CREDIT),
        SourceColumn("known_time", ColumnType.TIMESTAMP, CREDIT),
        SourceColumn("pay_delay", ColumnType.INT64, CREDIT),
        SourceColumn("amount", ColumnType.FLOAT64, AUDITED, frozenset({"sensitive"})),
        SourceColumn("sex", ColumnType.STRING, frozenset({"fairness_audit"}), frozenset({"sensitive", "pii"})),
        SourceColumn("flag", ColumnType.BOOL, CREDIT),
        SourceColumn("defaulted", ColumnType.BOOL, CREDIT, outcome=True),
    ),
    event_time_column="statement_time",
    known_time_column="known_time",
    subject_column="client_id",
    pseudonym_domain="credit",
)
TYPES = {
    "client_id": pa.string(),
    "statement_time": UTC_US,
    "known_time": UTC_US,
    "pay_delay": pa.int64(),
    "amount": pa.float64(),
    "sex": pa.string(),
    "flag": pa.bool_(),
    "defaulted": pa.bool_(),
}


def at(text: str) -> dt.datetime:
    """An instant from ISO text; UTC unless the text says otherwise."""
    parsed = dt.datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=dt.UTC)


def us(text: str) -> int:
    """An instant in µs since 1970 UTC."""
    return (at(text) - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) // dt.timedelta(microseconds=1)


def row(client: str | None, event: str, known: str | None = None, **columns: Any) -> dict[str, Any]:
    """One statement; known when it happened unless said otherwise."""
    return {"client_id": client, "statement_time": at(event), "known_time": at(known or event), **columns}


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """The rows as a snapshot would give them."""
    return pa.table({name: pa.array([each.get(name) for each in rows], kind) for name, kind in TYPES.items()})


def view(*features: Feature | str, ttl_seconds: int = 0, view_id: str = "behaviour") -> FeatureView:
    """A view over statements; text stands for a feature over all history."""
    defined = [
        Feature(f"f{index}", feature) if isinstance(feature, str) else feature for index, feature in enumerate(features)
    ]
    return define_view(view_id, STATEMENTS, "client_id", defined, ttl_seconds=ttl_seconds)


def engine_with(rows: Sequence[dict[str, Any]] | pa.Table, over: FeatureView) -> PointInTime:
    """An engine that holds the rows for a view; the caller closes it."""
    source = rows if isinstance(rows, pa.Table) else table(rows)
    engine = PointInTime(memory_limit_mib=256)
    prepared, _ = prepare_rows(source, over.source, over.entity.column, over.columns)
    engine.load(over.source.dataset, prepared)
    return engine
