"""The point-in-time join: features of entities as they were known at a time.

One piece of code computes training sets, offline answers and materialized values. Rules, for an entity as of a time:

1. A row is visible when its event time and its known time are both at or before the as-of time. A row written later
   about an earlier time is not visible: it could not have been known.
2. Of visible rows with the same entity and event time the one with the newest known time counts; of those with the
   same known time too, the one whose columns sort last. The order of rows in files never decides.
3. A feature aggregates the visible rows with an event time after `as_of - window_months`; the lower edge is excluded.
   Months are calendar months in UTC: the same day of the month and time of day, or the last day when the month is too
   short. Three months before 31 May is 28 February (29 in a leap year); one month before 30 June is 30 May.
4. A feature over no row is null. So is a result that is not a finite number. Null is NaN in a float64 block.
5. When the newest visible event time is older than the view's TTL, every feature of the view is null. A value is still
   there at exactly `event time + TTL` and gone a microsecond later.
6. An integer result beyond 2^53 is refused, because float64 would change it without a word.
7. Every row asked for comes back once, in the order asked.

Results are the same bytes whatever the order of the rows, the other entities asked for, or the machine: the visible
rows are stored sorted by (row asked for, event time), unique by rule 2, and aggregated by one thread, so that each sum
of floats adds in the order of event time. Chunks keep a group whole in one hash table.
"""

# ruff: noqa: S608 - SQL here is put together from constants, integers, contract columns and checked expressions.
from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from hedgerow.errors import FailedPreconditionError, ResourceExhaustedError
from services.features.expression import Expression, invalid
from services.features.source import SourceContract
from services.features.source_rows import ENTITY, EVENT_TIME, INSTANT, KNOWN_TIME, arrow_schema
from services.features.view import FeatureView

CHUNK_ROWS = 16_384
NO_EVENT = np.iinfo(np.int64).min
_INTEGERS = frozenset({"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UBIGINT", "UINTEGER", "USMALLINT"})
_EXACT_LIMIT = 2**53
_INEXACT = "hedgerow: inexact integer"

Floats = npt.NDArray[np.float64]
Instants = npt.NDArray[np.int64]


class Status(enum.IntEnum):
    """Whether an entity's values are there; numbers as in `FeatureBlock.Status`."""

    PRESENT = 1
    NOT_FOUND = 2
    OUTSIDE_MAX_AGE = 3


@dataclass(frozen=True, slots=True)
class AsOfValues:
    """Features of one view for n rows.

    Attributes:
        values: float64 [n, features]; NaN is null; null throughout where the TTL has passed.
        event_us: int64 [n], newest visible event time in µs since 1970 UTC; `NO_EVENT` where no row is visible.
        statuses: uint8 [n] of `Status`.
    """

    values: Floats
    event_us: Instants
    statuses: npt.NDArray[np.uint8]


class PointInTime:
    """Computes features over rows loaded into an in-memory engine that can reach neither files nor network.

    Not safe for use by several threads at once. Use as a context manager.
    """

    def __init__(self, *, memory_limit_mib: int = 1024, checkpoint: Callable[[], None] = lambda: None) -> None:
        """Open an empty engine.

        Args:
            memory_limit_mib: what the engine may use.
            checkpoint: called between chunks; raises to stop the work.
        """
        # No temporary directory: what the engine spills to disk would be plaintext, so it must fit in memory.
        self._db = duckdb.connect(
            config={
                "threads": 1,
                "memory_limit": f"{memory_limit_mib}MiB",
                "temp_directory": "",
                "error_on_division_by_zero": "false",
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
                "python_enable_replacements": "false",
            }
        )
        self._db.execute("SET enable_external_access = false")
        self._db.execute("SET lock_configuration = true")
        self._tables: dict[str, str] = {}
        self._checkpoint = checkpoint

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def check_view(self, view: FeatureView, *, field: str = "feature_view") -> None:
        """Check that every expression of a view has a type that a feature can have.

        Raises:
            InvalidArgumentError: types do not fit, or the result is neither a number nor a boolean.
        """
        for index, expression in enumerate(view.compiled):
            path = f"{field}.features[{index}].expression"
            kind = self._result_type(view.source, expression, path)
            if kind not in _INTEGERS | {"DOUBLE", "FLOAT", "BOOLEAN"} and not kind.startswith("DECIMAL"):
                raise invalid(path, f"has type {kind}; expected a number or a boolean")

    def check_label(self, contract: SourceContract, expression: Expression, *, field: str) -> None:
        """Check that a label expression is a boolean.

        Raises:
            InvalidArgumentError: it is not.
        """
        kind = self._result_type(contract, expression, field)
        if kind != "BOOLEAN":
            raise invalid(field, f"has type {kind}; expected a boolean, such as bool_or(column >= 1)")

    def load(self, dataset: str, rows: pa.Table) -> None:
        """Load the rows of a dataset, as `prepare_rows` returns them."""
        table = f"rows_{len(self._tables)}"
        with _engine_errors(dataset):
            self._db.register("incoming", rows)
            self._db.execute(f"CREATE TABLE {table} AS SELECT * FROM incoming")
            self._db.unregister("incoming")
        self._tables[dataset] = table

    def entities(self, view: FeatureView, as_of_us: int) -> list[str]:
        """Return the entities with a visible row, sorted."""
        with _engine_errors(view.source.dataset):
            found = self._db.execute(
                f"SELECT DISTINCT {ENTITY} FROM {self._table(view.source.dataset)} "
                f"WHERE {EVENT_TIME} <= make_timestamp($1) AND {KNOWN_TIME} <= make_timestamp($1) ORDER BY 1",
                [as_of_us],
            ).fetchall()
        return [entity for (entity,) in found]

    def features(self, view: FeatureView, entities: Sequence[str], as_of_us: Instants | int) -> AsOfValues:
        """Return the features of n rows.

        Args:
            view: whose dataset is loaded.
            entities: n stored entity keys; the same one may occur several times.
            as_of_us: one time for all, or int64 [n]; µs since 1970 UTC.

        Raises:
            FailedPreconditionError: an expression overflows or gives an integer beyond 2^53.
            ResourceExhaustedError: the rows do not fit in the engine's memory.
        """
        chunks = list(self.feature_chunks(view, entities, as_of_us))
        if not chunks:
            return AsOfValues(np.empty((0, len(view.features))), np.empty(0, np.int64), np.empty(0, np.uint8))
        return AsOfValues(
            np.concatenate([chunk.values for chunk in chunks]),
            np.concatenate([chunk.event_us for chunk in chunks]),
            np.concatenate([chunk.statuses for chunk in chunks]),
        )

    def feature_chunks(
        self, view: FeatureView, entities: Sequence[str], as_of_us: Instants | int
    ) -> Iterator[AsOfValues]:
        """Yield the features of consecutive rows, at most `CHUNK_ROWS` at a time: see `features`."""
        times = np.broadcast_to(np.asarray(as_of_us, dtype=np.int64), len(entities))
        for start in range(0, len(entities), CHUNK_ROWS):
            self._checkpoint()
            end = start + CHUNK_ROWS
            with _engine_errors(f"featureViews/{view.view_id}"):
                yield self._chunk(view, entities[start:end], times[start:end])

    def labels(
        self, contract: SourceContract, expression: Expression, as_of_us: int, horizon_months: int
    ) -> tuple[list[str], npt.NDArray[np.int8]]:
        """Return the entities whose outcome is known, sorted, and their labels.

        Outcome rows are those with an event time after the as-of time and at most `horizon_months` later; 0 takes all
        rows of the entity. They count whenever they became known: the outcome is what the world came to know. An
        entity whose label is null has no outcome and is left out.
        """
        horizon = (
            f"WHERE {EVENT_TIME} > make_timestamp($1) "
            f"AND {EVENT_TIME} <= make_timestamp($1) + INTERVAL {int(horizon_months)} MONTH"
        )
        with _engine_errors(contract.dataset):
            self._db.execute(
                f"CREATE OR REPLACE TEMP TABLE visible AS SELECT * FROM {self._table(contract.dataset)} "
                f"{horizon if horizon_months else 'WHERE $1 IS NOT NULL'} "
                f"{_newest_known(ENTITY, contract, expression.columns)} ORDER BY {ENTITY}, {EVENT_TIME}",
                [as_of_us],
            )
            found = self._db.sql(
                f"SELECT {ENTITY}, label FROM (SELECT {ENTITY}, {expression.sql} AS label FROM visible "
                f"GROUP BY {ENTITY}) WHERE label IS NOT NULL ORDER BY {ENTITY}"
            ).to_arrow_table()
        return found.column(0).to_pylist(), found.column(1).cast(pa.int8()).to_numpy()

    def _chunk(self, view: FeatureView, entities: Sequence[str], as_of_us: Instants) -> AsOfValues:
        self._keep_visible(view, entities, as_of_us)
        values = np.full((len(entities), len(view.features)), np.nan)
        event_us = np.full(len(entities), NO_EVENT, np.int64)
        newest = self._db.execute(f"SELECT _row, epoch_us(max({EVENT_TIME})) FROM visible GROUP BY _row").fetchnumpy()
        rows, times = newest.values()
        event_us[rows] = times
        for window in sorted({feature.window_months for feature in view.features}):
            self._fill_window(view, window, values)
        values[~np.isfinite(values)] = np.nan
        statuses = freshness(event_us, as_of_us, view.ttl_seconds)
        values[statuses != Status.PRESENT] = np.nan
        return AsOfValues(values, event_us, statuses)

    def _keep_visible(self, view: FeatureView, entities: Sequence[str], as_of_us: Instants) -> None:
        """Leave the visible rows of each row asked for in table `visible`, in the order that they are added up."""
        spine = pa.table(
            {
                "_row": pa.array(np.arange(len(entities), dtype=np.int32)),
                ENTITY: pa.array(entities, pa.string()),
                "_as_of": pa.array(as_of_us).view(INSTANT),
            }
        )
        columns = "".join(f', source."{column.name}"' for column in view.source.in_order(view.columns))
        self._db.register("spine", spine)
        self._db.execute(
            f"CREATE OR REPLACE TEMP TABLE visible AS "
            f"SELECT spine._row, spine._as_of, source.{EVENT_TIME}, source.{KNOWN_TIME}{columns} "
            f"FROM spine JOIN {self._table(view.source.dataset)} AS source ON source.{ENTITY} = spine.{ENTITY} "
            f"AND source.{EVENT_TIME} <= spine._as_of AND source.{KNOWN_TIME} <= spine._as_of "
            f"{_newest_known('spine._row', view.source, view.columns)} ORDER BY spine._row, source.{EVENT_TIME}"
        )
        self._db.unregister("spine")

    def _fill_window(self, view: FeatureView, window_months: int, values: Floats) -> None:
        """Compute the features of one window into their columns of `values`."""
        indices = [i for i, feature in enumerate(view.features) if feature.window_months == window_months]
        inner = ", ".join(f"{view.compiled[i].sql} AS f{i}" for i in indices)
        where = f"WHERE {EVENT_TIME} > _as_of - INTERVAL {int(window_months)} MONTH" if window_months else ""
        outer = ", ".join(self._as_double(view, i) for i in indices)
        found = self._db.sql(
            f"SELECT _row, {outer} FROM (SELECT _row, {inner} FROM visible {where} GROUP BY _row)"
        ).to_arrow_table()
        rows = found.column(0).to_numpy()
        for position, index in enumerate(indices, start=1):
            # Arrow's nulls become NaN here; the column is float64 already, so no value changes.
            values[rows, index] = found.column(position).to_numpy()

    def _as_double(self, view: FeatureView, index: int) -> str:
        kind = self._result_type(view.source, view.compiled[index], view.features[index].name)
        if kind not in _INTEGERS:
            return f"CAST(f{index} AS DOUBLE)"
        exact = f"f{index} IS NULL OR f{index} BETWEEN -{_EXACT_LIMIT} AND {_EXACT_LIMIT}"
        return f"CASE WHEN {exact} THEN CAST(f{index} AS DOUBLE) ELSE error('{_INEXACT}') END"

    def _result_type(self, contract: SourceContract, expression: Expression, field: str) -> str:
        """Return the SQL type of an expression over the contract's columns."""
        self._db.register("typed", arrow_schema(contract, expression.columns).empty_table())
        try:
            ((_, kind, *_),) = self._db.execute(f"DESCRIBE SELECT {expression.sql} FROM typed").fetchall()
        except duckdb.Error as error:
            # The table is empty, so the engine's text can quote nothing but the caller's own expression.
            raise invalid(field, f"does not fit the columns: {_first_line(error)}") from None
        finally:
            self._db.unregister("typed")
        return str(kind)

    def _table(self, dataset: str) -> str:
        return self._tables[dataset]


def freshness(event_us: Instants, as_of_us: Instants | int, ttl_seconds: int) -> npt.NDArray[np.uint8]:
    """Return the status of each row: rule 5, online and offline.

    Args:
        event_us: int64 [n], newest event time; `NO_EVENT` where there is none.
        as_of_us: the time of reading, one or int64 [n].
        ttl_seconds: 0 means for ever.
    """
    absent = event_us == NO_EVENT
    statuses = np.where(absent, np.uint8(Status.NOT_FOUND), np.uint8(Status.PRESENT))
    if ttl_seconds:
        # The age of an absent row is not computed from its marker, which would overflow.
        age = np.asarray(as_of_us, np.int64) - np.where(absent, 0, event_us)
        statuses[~absent & (age > ttl_seconds * 1_000_000)] = Status.OUTSIDE_MAX_AGE
    return statuses


def combine(statuses: Sequence[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Return one status per entity over several views: expired if one is, else present if one is."""
    stacked = np.stack(statuses)
    present = np.where((stacked == Status.PRESENT).any(axis=0), np.uint8(Status.PRESENT), np.uint8(Status.NOT_FOUND))
    expired = (stacked == Status.OUTSIDE_MAX_AGE).any(axis=0)
    return np.where(expired, np.uint8(Status.OUTSIDE_MAX_AGE), present)


def _newest_known(group: str, contract: SourceContract, columns: frozenset[str]) -> str:
    """The clause that keeps one row per group and event time: rule 2."""
    ties = "".join(f', "{column.name}" DESC NULLS LAST' for column in contract.in_order(columns))
    return f"QUALIFY row_number() OVER (PARTITION BY {group}, {EVENT_TIME} ORDER BY {KNOWN_TIME} DESC{ties}) = 1"


@contextmanager
def _engine_errors(what: str) -> Iterator[None]:
    """Turn engine errors into typed ones without their text, which may quote values of the data."""
    try:
        yield
    except duckdb.OutOfMemoryException:
        raise ResourceExhaustedError(
            f"{what}: the rows do not fit in the memory limit of the features service"
        ) from None
    except duckdb.Error as error:
        if _INEXACT in str(error):
            raise FailedPreconditionError(
                f"{what}: an integer result is beyond 2^53, which a float64 feature cannot hold exactly; "
                "scale it or cast it to double in the expression"
            ) from None
        raise FailedPreconditionError(f"{what}: an expression failed on the data ({type(error).__name__})") from None


def _first_line(error: duckdb.Error) -> str:
    return str(error).splitlines()[0][:200]
