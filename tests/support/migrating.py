"""Migrations to run against a real PostgreSQL, and processes that run them."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa

from libs.sql import open_postgres
from suite.backing.postgres import ADMINISTRATOR, DATABASE, Postgres

SCRIPT = """
import sqlalchemy as sa
from alembic import op

revision = "{number}"
down_revision = {down}
branch_labels = depends_on = None


def upgrade():
    op.create_table("t{number}", sa.Column("id", sa.Integer, primary_key=True))
    op.execute("INSERT INTO t1 VALUES ({number})")
    {then}
"""


def write_migrations(folder: Path, *then: str) -> Path:
    """Write one script per line; each makes a table, notes its number in the first one's, and runs its line."""
    (folder / "versions").mkdir(parents=True)
    for number, line in enumerate(then, 1):
        down = None if number == 1 else f'"{number - 1}"'
        text = SCRIPT.format(number=number, down=down, then=line or "pass")
        (folder / "versions" / f"{number:04}.py").write_text(text)
    return folder


def administrators(server: Postgres) -> tuple[str, Path]:
    """Return the URL and password file of one who may make schemas."""
    settings = server.service_environment("features")
    url = settings["HEDGEROW_DATABASE_URL"].replace("//features@", f"//{ADMINISTRATOR}@")
    assert f"/{DATABASE}?" in url
    return url, server.password_file(ADMINISTRATOR)


def replica(url: str, password_file: Path, migrations: Path, schema: str) -> list[int]:
    """Start as a replica does, and return which migrations ran, in order and as often as they did."""
    database = open_postgres(url, password_file, migrations, schema=schema)
    with database.reading() as session:
        ran = list(session.execute(sa.text("SELECT id FROM t1 ORDER BY id")).scalars())
    database.close()
    return ran
