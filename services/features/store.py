"""Tables of the features service: definitions, and the state of long work. No value of a feature is kept here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from hedgerow.errors import AlreadyExistsError, NotFoundError
from libs.sql import Database
from services.features.records import MaterializationRecord, State, TrainingSetRecord
from services.features.source import SourceContract
from services.features.training_set import Cutoff
from services.features.view import Feature, FeatureService, FeatureView, define_service, define_view

metadata = sa.MetaData()

feature_views = sa.Table(
    "feature_views",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("definition", sa.JSON, nullable=False),
    sa.Column("create_us", sa.BigInteger, nullable=False),
)
feature_services = sa.Table(
    "feature_services",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("view_ids", sa.JSON, nullable=False),
    sa.Column("create_us", sa.BigInteger, nullable=False),
)
training_sets = sa.Table(
    "training_sets",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("service_id", sa.String(63), nullable=False),
    sa.Column("cutoffs", sa.JSON, nullable=False),
    sa.Column("purposes", sa.JSON, nullable=False),
    sa.Column("tags", sa.JSON, nullable=False),
    sa.Column("sources", sa.JSON, nullable=False),
    sa.Column("create_us", sa.BigInteger, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("row_count", sa.BigInteger, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("error", sa.Text, nullable=False),
)
materializations = sa.Table(
    "materializations",
    metadata,
    sa.Column("id", sa.String(63), primary_key=True),
    sa.Column("service_id", sa.String(63), nullable=False),
    sa.Column("as_of_us", sa.BigInteger, nullable=False),
    sa.Column("state", sa.SmallInteger, nullable=False),
    sa.Column("entity_count", sa.BigInteger, nullable=False),
    sa.Column("rejected_count", sa.BigInteger, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
)


class FeaturesStore:
    """Definitions and states. Methods block; call them from worker threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- feature views

    def add_view(self, view: FeatureView, create_us: int) -> int:
        """Keep a view and return when it was created. Adding the same definition again changes nothing.

        Raises:
            AlreadyExistsError: another view has the id.
        """
        definition = _view_to_json(view)
        with self._database.session() as session:
            row = session.execute(sa.select(feature_views).where(feature_views.c.id == view.view_id)).one_or_none()
            if row is None:
                session.execute(
                    feature_views.insert().values(id=view.view_id, definition=definition, create_us=create_us)
                )
                return create_us
            if row.definition != definition:
                raise _exists(f"featureViews/{view.view_id}")
            return int(row.create_us)

    def view(self, view_id: str) -> tuple[FeatureView, int]:
        """Return a view and when it was created, µs since 1970 UTC.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.reading() as session:
            row = session.execute(sa.select(feature_views).where(feature_views.c.id == view_id)).one_or_none()
        if row is None:
            raise _missing(f"featureViews/{view_id}")
        return _view_from_json(row.id, row.definition), int(row.create_us)

    def views(self, after: str, limit: int) -> list[tuple[FeatureView, int]]:
        """Return views with ids after one, by id."""
        with self._database.reading() as session:
            rows = session.execute(_page(feature_views, after, limit)).all()
        return [(_view_from_json(row.id, row.definition), int(row.create_us)) for row in rows]

    # ---- feature services

    def add_service(self, service: FeatureService, create_us: int) -> int:
        """Keep a feature service and return when it was created, as `add_view` does."""
        view_ids = [view.view_id for view in service.views]
        table = feature_services
        with self._database.session() as session:
            row = session.execute(sa.select(table).where(table.c.id == service.service_id)).one_or_none()
            if row is None:
                session.execute(table.insert().values(id=service.service_id, view_ids=view_ids, create_us=create_us))
                return create_us
            if row.view_ids != view_ids:
                raise _exists(f"featureServices/{service.service_id}")
            return int(row.create_us)

    def service(self, service_id: str) -> tuple[FeatureService, int]:
        """Return a feature service and when it was created.

        Raises:
            NotFoundError: there is none.
        """
        table = feature_services
        with self._database.reading() as session:
            row = session.execute(sa.select(table).where(table.c.id == service_id)).one_or_none()
        if row is None:
            raise _missing(f"featureServices/{service_id}")
        return self._service(row), int(row.create_us)

    def services(self, after: str, limit: int) -> list[tuple[FeatureService, int]]:
        """Return feature services with ids after one, by id."""
        with self._database.reading() as session:
            rows = session.execute(_page(feature_services, after, limit)).all()
        return [(self._service(row), int(row.create_us)) for row in rows]

    def view_ids(self) -> list[str]:
        """Return the ids of all views."""
        with self._database.reading() as session:
            return list(session.execute(sa.select(feature_views.c.id).order_by(feature_views.c.id)).scalars())

    def _service(self, row: sa.Row[Any]) -> FeatureService:
        return define_service(row.id, [self.view(view_id)[0] for view_id in row.view_ids])

    # ---- training sets

    def add_training_set(self, record: TrainingSetRecord) -> TrainingSetRecord:
        """Keep a training set that is to be built, and return what is kept.

        The same definition again returns the one that is kept, except that one that failed starts over.

        Raises:
            AlreadyExistsError: another training set has the id.
        """
        table = training_sets
        with self._database.session() as session:
            row = session.execute(sa.select(table).where(table.c.id == record.training_set_id)).one_or_none()
            if row is None:
                session.execute(table.insert().values(**_training_set_row(record)))
                return record
            kept = _training_set(row)
            if (kept.service_id, kept.cutoffs) != (record.service_id, record.cutoffs):
                raise _exists(f"trainingSets/{record.training_set_id}")
            if kept.state is not State.FAILED:
                return kept
            session.execute(
                table.update().where(table.c.id == record.training_set_id).values(**_training_set_row(record))
            )
            return record

    def training_set(self, training_set_id: str) -> TrainingSetRecord:
        """Return a training set.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.reading() as session:
            row = session.execute(sa.select(training_sets).where(training_sets.c.id == training_set_id)).one_or_none()
        if row is None:
            raise _missing(f"trainingSets/{training_set_id}")
        return _training_set(row)

    def update_training_set(self, training_set_id: str, **values: Any) -> None:
        """Change columns of a training set."""
        with self._database.session() as session:
            session.execute(training_sets.update().where(training_sets.c.id == training_set_id).values(**values))

    # ---- materializations

    def add_materialization(self, record: MaterializationRecord) -> None:
        """Keep a new materialization."""
        with self._database.session() as session:
            session.execute(materializations.insert().values(**_renamed(record, "materialization_id")))

    def materialization(self, materialization_id: str) -> MaterializationRecord:
        """Return a materialization.

        Raises:
            NotFoundError: there is none.
        """
        table = materializations
        with self._database.reading() as session:
            row = session.execute(sa.select(table).where(table.c.id == materialization_id)).one_or_none()
        if row is None:
            raise _missing(f"materializations/{materialization_id}")
        return _materialization(row)

    def update_materialization(self, materialization_id: str, **values: Any) -> None:
        """Change columns of a materialization."""
        table = materializations
        with self._database.session() as session:
            session.execute(table.update().where(table.c.id == materialization_id).values(**values))

    # ---- of both

    def materialized(self) -> dict[str, int]:
        """Return the newest as-of time, µs since 1970, of what was materialized, by feature service."""
        table = materializations
        query = (
            sa.select(table.c.service_id, sa.func.max(table.c.as_of_us).label("newest_us"))
            .where(table.c.state == State.SUCCEEDED)
            .group_by(table.c.service_id)
        )
        with self._database.reading() as session:
            return {row.service_id: row.newest_us for row in session.execute(query)}

    def running(self) -> list[TrainingSetRecord | MaterializationRecord]:
        """Return what is RUNNING."""
        with self._database.reading() as session:
            sets = session.execute(sa.select(training_sets).where(training_sets.c.state == State.RUNNING)).all()
            written = session.execute(
                sa.select(materializations).where(materializations.c.state == State.RUNNING)
            ).all()
        return [*map(_training_set, sets), *map(_materialization, written)]

    def fail(self, record: TrainingSetRecord | MaterializationRecord, error: str) -> bool:
        """Mark work that was RUNNING as failed, and return whether it still was, and not already begun anew."""
        if isinstance(record, TrainingSetRecord):
            table = training_sets
            same = sa.and_(table.c.id == record.training_set_id, table.c.create_us == record.create_us)
        else:
            table = materializations
            same = table.c.id == record.materialization_id
        change = table.update().where(same, table.c.state == State.RUNNING).values(state=State.FAILED, error=error)
        with self._database.session() as session:
            return bool(session.execute(change).rowcount)  # type: ignore[attr-defined]

    def fail_interrupted(self, error: str) -> int:
        """Mark the work that an earlier process left RUNNING as failed, and return how much there was."""
        interrupted = 0
        with self._database.session() as session:
            for table in (training_sets, materializations):
                result = session.execute(
                    table.update().where(table.c.state == State.RUNNING).values(state=State.FAILED, error=error)
                )
                interrupted += result.rowcount  # type: ignore[attr-defined]
        return interrupted


def _page(table: sa.Table, after: str, limit: int) -> sa.Select[Any]:
    return sa.select(table).where(table.c.id > after).order_by(table.c.id).limit(limit)


def _view_to_json(view: FeatureView) -> dict[str, Any]:
    return {
        "source": view.source.to_json(),
        "entity_column": view.entity.column,
        "features": [dataclasses.asdict(feature) for feature in view.features],
        "ttl_seconds": view.ttl_seconds,
        "description": view.description,
    }


def _view_from_json(view_id: str, stored: dict[str, Any]) -> FeatureView:
    # Defined anew rather than trusted: what was stored passes the same checks as what is received.
    return define_view(
        view_id,
        SourceContract.from_json(stored["source"]),
        stored["entity_column"],
        [Feature(**feature) for feature in stored["features"]],
        ttl_seconds=stored["ttl_seconds"],
        description=stored["description"],
    )


def _training_set_row(record: TrainingSetRecord) -> dict[str, Any]:
    row = _renamed(record, "training_set_id")
    return {key: list(value) if isinstance(value, tuple) else value for key, value in row.items()}


def _training_set(row: sa.Row[Any]) -> TrainingSetRecord:
    values = dict(row._mapping)
    lists: dict[str, Sequence[str]] = {name: tuple(values.pop(name)) for name in ("purposes", "tags", "sources")}
    return TrainingSetRecord(
        training_set_id=values.pop("id"),
        state=State(values.pop("state")),
        cutoffs=tuple(Cutoff(**cutoff) for cutoff in values.pop("cutoffs")),
        **lists,  # type: ignore[arg-type]
        **values,
    )


def _materialization(row: sa.Row[Any]) -> MaterializationRecord:
    values = dict(row._mapping)
    return MaterializationRecord(materialization_id=values.pop("id"), state=State(values.pop("state")), **values)


def _renamed(record: TrainingSetRecord | MaterializationRecord, id_field: str) -> dict[str, Any]:
    row = dataclasses.asdict(record)
    return {"id": row.pop(id_field), **row}


def _exists(name: str) -> AlreadyExistsError:
    return AlreadyExistsError(f"{name} exists with another definition; choose another id", metadata={"resource": name})


def _missing(name: str) -> NotFoundError:
    return NotFoundError(f"{name} does not exist", metadata={"resource": name})
