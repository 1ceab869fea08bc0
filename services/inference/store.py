"""The table of deployments."""

from __future__ import annotations

import dataclasses
import datetime as dt
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from libs.artifact import Evidence
from libs.sql import Database
from services.inference.deployment import DeploymentRecord

MIGRATIONS: Final = Path(__file__).parent / "migrations"

_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)

_DEPLOYMENTS: Final = sa.Table(
    "deployments",
    sa.MetaData(),
    sa.Column("deployment_id", sa.String, primary_key=True),
    sa.Column("model_version", sa.String),
    sa.Column("artifact_digest", sa.String),
    sa.Column("manifest", sa.LargeBinary),
    sa.Column("signature", sa.LargeBinary),
    sa.Column("key_version", sa.Integer),
    sa.Column("public_key", sa.LargeBinary),
    sa.Column("wrapped_key", sa.LargeBinary),
    sa.Column("update_time_us", sa.BigInteger),
)


class DeploymentTable:
    """Keeps deployment records; see ``deployment.DeploymentStore``. Blocking: call it in a worker thread."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, record: DeploymentRecord) -> None:
        """Insert or replace a record; durable on return."""
        row = _row(record)
        with self._database.session() as session:
            session.execute(sa.delete(_DEPLOYMENTS).where(_DEPLOYMENTS.c.deployment_id == record.deployment_id))
            session.execute(sa.insert(_DEPLOYMENTS).values(**row))

    def all(self) -> list[DeploymentRecord]:
        """Return every record by id."""
        with self._database.reading() as session:
            rows = session.execute(sa.select(_DEPLOYMENTS).order_by(_DEPLOYMENTS.c.deployment_id)).mappings().all()
        return [_record(dict(row)) for row in rows]

    def mark(self) -> tuple[tuple[Any, ...], ...]:
        """Return each deployment with its artifact and the time of its last change; manifests are not read."""
        columns = _DEPLOYMENTS.c.deployment_id, _DEPLOYMENTS.c.artifact_digest, _DEPLOYMENTS.c.update_time_us
        with self._database.reading() as session:
            return tuple(map(tuple, session.execute(sa.select(*columns).order_by(columns[0]))))


def _row(record: DeploymentRecord) -> dict[str, Any]:
    return dataclasses.asdict(record.evidence) | {
        "deployment_id": record.deployment_id,
        "public_key": record.public_key,
        "wrapped_key": record.wrapped_key,
        "update_time_us": (record.update_time - _EPOCH) // _MICROSECOND,
    }


def _record(row: dict[str, Any]) -> DeploymentRecord:
    evidence = Evidence(**{field.name: row[field.name] for field in dataclasses.fields(Evidence)})
    update_time = _EPOCH + row["update_time_us"] * _MICROSECOND
    return DeploymentRecord(row["deployment_id"], evidence, row["public_key"], row["wrapped_key"], update_time)
