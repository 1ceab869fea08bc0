"""Real servers for the conformance suites of the stores, one of each for the whole session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

import services
from libs.sql import Database, open_database, open_postgres
from suite.backing.postgres import Postgres
from tests.support.backing import postgres, seaweedfs, valkey

__all__ = ["postgres", "seaweedfs", "valkey"]


OpenMetadata = Callable[[str], Database]
"""Opens the database of a service, empty."""


def migrations(service: str) -> Path:
    """Return the Alembic scripts of a service."""
    return Path(services.__path__[0]) / service / "migrations"


def open_on(server: Postgres, service: str, folder: Path | None = None) -> Database:
    """Open the schema of a service, as the service does."""
    settings = server.service_environment(service)
    return open_postgres(
        settings["HEDGEROW_DATABASE_URL"],
        Path(settings["HEDGEROW_DATABASE_PASSWORD_FILE"]),
        folder or migrations(service),
        schema=service,
    )


@pytest.fixture(params=["sqlcipher", "postgres"])
def metadata(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenMetadata]:
    """What opens metadata databases on one engine and then on the other."""
    with ExitStack() as opened:

        def on_file(service: str) -> Database:
            database = open_database(tmp_path / f"{service}.db", bytes(32), migrations(service))
            opened.callback(database.close)
            return database

        def on_server(service: str) -> Database:
            database = open_on(request.getfixturevalue("postgres"), service)
            opened.callback(database.close)
            tables = set(sa.inspect(database.engine).get_table_names()) - {"alembic_version"}
            with database.session() as session:
                session.execute(sa.text(f"TRUNCATE {', '.join(sorted(tables))} RESTART IDENTITY CASCADE"))
            return database

        yield on_file if request.param == "sqlcipher" else on_server
