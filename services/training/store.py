"""Tables and queries of training runs and of the model registry. All methods block; each is one transaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from hedgerow.errors import AlreadyExistsError, NotFoundError
from libs.sql import Database
from services.training.gates import Gate, Outcome
from services.training.records import EpochMetrics, ModelRecord, RunRecord, RunState, VersionRecord
from services.training.spec import GateBounds, ProtectedAttribute, TrainingSpec

_metadata = sa.MetaData()
training_runs = sa.Table(
    "training_runs",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("id", "requester", "request_id", "state", "model_version", "error")),
    sa.Column("spec", sa.JSON),
    sa.Column("epochs", sa.JSON),
    sa.Column("create_us", sa.BigInteger),
    sa.Column("end_us", sa.BigInteger),
)
models = sa.Table(
    "models", _metadata, sa.Column("id", sa.String, primary_key=True), sa.Column("last_number", sa.Integer)
)
model_versions = sa.Table(
    "model_versions",
    _metadata,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True),
    *(sa.Column(name, sa.String) for name in ("training_run", "artifact_digest", "evaluation", "card")),
    *(sa.Column(name, sa.LargeBinary) for name in ("manifest", "signature", "wrapped_key")),
    sa.Column("key_version", sa.Integer),
    sa.Column("artifact_size", sa.BigInteger),
    sa.Column("gates", sa.JSON),
    sa.Column("create_us", sa.BigInteger),
)
model_aliases = sa.Table(
    "model_aliases",
    _metadata,
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("alias", sa.String, primary_key=True),
    sa.Column("number", sa.Integer),
)


class TrainingStore:
    """Runs, models, versions and aliases."""

    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- training runs

    def add_run(self, record: RunRecord) -> RunRecord:
        """Keep a new run and return what is kept: the earlier run when its request was already carried out.

        Raises:
            AlreadyExistsError: the requester used the request id for another specification.
        """
        table = training_runs
        with self._database.session() as session:
            kept = session.execute(
                sa.select(table).where(table.c.requester == record.requester, table.c.request_id == record.request_id)
            ).one_or_none()
            if kept is None:
                session.execute(table.insert().values(**_run_row(record)))
                return record
        earlier = _run(kept)
        if earlier.spec != record.spec:
            raise AlreadyExistsError(
                "request_id was used for another training run; make a new one for each run",
                metadata={"resource": earlier.name},
            )
        return earlier

    def discard_run(self, run_id: str) -> None:
        """Forget a run that could not be queued, unless it was cancelled meanwhile."""
        is_queued = sa.and_(training_runs.c.id == run_id, training_runs.c.state == RunState.QUEUED.value)
        with self._database.session() as session:
            session.execute(training_runs.delete().where(is_queued))

    def run(self, run_id: str) -> RunRecord:
        """Return a run.

        Raises:
            NotFoundError: there is none.
        """
        with self._database.reading() as session:
            row = session.execute(sa.select(training_runs).where(training_runs.c.id == run_id)).one_or_none()
        if row is None:
            raise _missing(f"trainingRuns/{run_id}")
        return _run(row)

    def runs(self, before: int | None, limit: int) -> list[tuple[int, RunRecord]]:
        """Return runs with their sequence numbers, newest first, from below a number."""
        query = sa.select(training_runs).order_by(training_runs.c.sequence.desc()).limit(limit)
        if before is not None:
            query = query.where(training_runs.c.sequence < before)
        with self._database.reading() as session:
            return [(row.sequence, _run(row)) for row in session.execute(query)]

    def set_state(
        self, run_id: str, state: RunState, *, model_version: str = "", error: str = "", end_us: int = 0
    ) -> bool:
        """Move a run that has not ended to a state, and return whether it had not."""
        with self._database.session() as session:
            return _move(session, run_id, state, model_version=model_version, error=error, end_us=end_us)

    def add_epoch(self, run_id: str, epoch: EpochMetrics) -> None:
        """Append an epoch to a run."""
        table = training_runs
        with self._database.session() as session:
            epochs = session.execute(sa.select(table.c.epochs).where(table.c.id == run_id)).scalar_one()
            session.execute(
                table.update().where(table.c.id == run_id).values(epochs=[*epochs, dataclasses.asdict(epoch)])
            )

    def fail_interrupted(self, error: str, end_us: int) -> int:
        """Mark the runs that an earlier process left open as failed, and return how many there were."""
        with self._database.session() as session:
            result = session.execute(
                training_runs.update()
                .where(training_runs.c.state.in_(_OPEN))
                .values(state=RunState.FAILED.value, error=error, end_us=end_us)
            )
            return int(result.rowcount)  # type: ignore[attr-defined]

    # ---- the model registry

    def next_number(self, model: str) -> int:
        """Reserve the next version number of a model, which comes to exist by it."""
        with self._database.session() as session:
            number = 1 + (session.execute(sa.select(models.c.last_number).where(models.c.id == model)).scalar() or 0)
            if number == 1:
                session.execute(models.insert().values(id=model, last_number=1))
            else:
                session.execute(models.update().where(models.c.id == model).values(last_number=number))
            return number

    def add_version(self, record: VersionRecord) -> None:
        """Keep a version under a number that was reserved; its run has SUCCEEDED by it."""
        values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
        values["gates"] = [dataclasses.asdict(gate) for gate in record.gates]
        run_id = record.training_run.rpartition("/")[2]
        with self._database.session() as session:
            session.execute(model_versions.insert().values(**values))
            _move(session, run_id, RunState.SUCCEEDED, model_version=record.name, end_us=record.create_us)

    def version(self, model: str, label: str) -> VersionRecord:
        """Return a version by its number or an alias.

        Raises:
            NotFoundError: there is none.
        """
        table = model_versions
        with self._database.reading() as session:
            number = _number(session, model, label)
            row = session.execute(
                sa.select(table).where(table.c.model == model, table.c.number == number)
            ).one_or_none()
        if row is None:
            raise _missing(f"models/{model}/versions/{label}")
        return _version(row)

    def versions(self, model: str, before: int | None, limit: int) -> list[VersionRecord]:
        """Return versions of a model, newest first, from below a number.

        Raises:
            NotFoundError: there is no such model.
        """
        table = model_versions
        query = sa.select(table).where(table.c.model == model).order_by(table.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(table.c.number < before)
        with self._database.reading() as session:
            if not session.execute(sa.select(table.c.number).where(table.c.model == model).limit(1)).first():
                raise _missing(f"models/{model}")
            return [_version(row) for row in session.execute(query)]

    def models(self, after: str, limit: int) -> list[ModelRecord]:
        """Return the models that have a version, by id, from after one."""
        table = model_versions
        query = (
            sa.select(table.c.model, sa.func.max(table.c.number).label("latest"))
            .where(table.c.model > after)
            .group_by(table.c.model)
            .order_by(table.c.model)
            .limit(limit)
        )
        with self._database.reading() as session:
            return [ModelRecord(row.model, row.latest, _aliases(session, row.model)) for row in session.execute(query)]

    def aliases_of(self, model: str, number: int) -> list[str]:
        """Return the aliases that point at a version, sorted."""
        with self._database.reading() as session:
            return sorted(alias for alias, target in _aliases(session, model).items() if target == number)

    def point_alias(self, model: str, alias: str, number: int) -> None:
        """Point an alias at a version, wherever it pointed before."""
        table = model_aliases
        with self._database.session() as session:
            session.execute(table.delete().where(table.c.model == model, table.c.alias == alias))
            session.execute(table.insert().values(model=model, alias=alias, number=number))

    def artifact_digests(self) -> set[str]:
        """Return the digests of all artifacts that versions name."""
        with self._database.reading() as session:
            return set(session.execute(sa.select(model_versions.c.artifact_digest)).scalars())


_OPEN = [state.value for state in RunState if not state.ended]


def _move(
    session: Session, run_id: str, state: RunState, *, model_version: str = "", error: str = "", end_us: int = 0
) -> bool:
    values = {"state": state.value, "model_version": model_version, "error": error, "end_us": end_us}
    is_open = sa.and_(training_runs.c.id == run_id, training_runs.c.state.in_(_OPEN))
    moved = session.execute(training_runs.update().where(is_open).values(**values))
    return bool(moved.rowcount)  # type: ignore[attr-defined]


def _number(session: Session, model: str, label: str) -> int:
    """Return the version number that a label means; 0 when it means none."""
    if label.isdecimal():
        # A number has one spelling, so that a version has one name; and SQLite's integers end at 64 bits.
        return int(label) if len(label) <= 9 and str(int(label)) == label else 0
    table = model_aliases
    query = sa.select(table.c.number).where(table.c.model == model, table.c.alias == label)
    return int(session.execute(query).scalar() or 0)


def _aliases(session: Session, model: str) -> dict[str, int]:
    rows: Sequence[Any] = session.execute(sa.select(model_aliases).where(model_aliases.c.model == model)).all()
    return {row.alias: row.number for row in rows}


def _run_row(record: RunRecord) -> dict[str, Any]:
    row = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    row["id"] = row.pop("run_id")
    row["spec"] = dataclasses.asdict(record.spec)
    row["state"] = record.state.value
    row["epochs"] = [dataclasses.asdict(epoch) for epoch in record.epochs]
    return row


def _run(row: sa.Row[Any]) -> RunRecord:
    return RunRecord(
        run_id=row.id,
        requester=row.requester,
        request_id=row.request_id,
        spec=_spec(row.spec),
        state=RunState(row.state),
        epochs=tuple(EpochMetrics(**epoch) for epoch in row.epochs),
        model_version=row.model_version,
        error=row.error,
        create_us=row.create_us,
        end_us=row.end_us,
    )


def _spec(stored: Mapping[str, Any]) -> TrainingSpec:
    attributes = tuple(
        ProtectedAttribute(
            feature=attribute["feature"],
            display_name=attribute["display_name"],
            band_edges=tuple(attribute["band_edges"]),
            group_names=tuple(attribute["group_names"]),
        )
        for attribute in stored["protected_attributes"]
    )
    changed = {
        "hidden_sizes": tuple(stored["hidden_sizes"]),
        "protected_attributes": attributes,
        "gate_bounds": GateBounds(**stored["gate_bounds"]),
    }
    return TrainingSpec(**{**stored, **changed})


def _version(row: sa.Row[Any]) -> VersionRecord:
    values = dict(row._mapping)
    gates = tuple(Gate(**{**gate, "outcome": Outcome(gate["outcome"])}) for gate in values.pop("gates"))
    return VersionRecord(gates=gates, **values)


def _missing(name: str) -> NotFoundError:
    return NotFoundError(f"{name} does not exist", metadata={"resource": name})
