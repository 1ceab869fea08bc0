"""The encrypted database: no plain text, one key, migrations all or nothing."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import sqlalchemy as sa

from hedgerow.errors import DataLossError, FailedPreconditionError
from libs.sql import open_database

KEY = os.urandom(32)
SCRIPT = """
import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = {down}
branch_labels = depends_on = None


def upgrade():
    op.create_table("t{revision}", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String))
    {more}


def downgrade():
    op.drop_table("t{revision}")
"""


def migrations(folder: Path, *more: str) -> Path:
    (folder / "versions").mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(more, 1):
        down = None if number == 1 else f'"{number - 1}"'
        text = SCRIPT.format(revision=number, down=down, more=line)
        (folder / "versions" / f"{number:04}.py").write_text(text)
    return folder


def test_rows_survive_and_nothing_is_in_clear(tmp_path: Path) -> None:
    path = tmp_path / "data" / "x.db"
    database = open_database(path, KEY, migrations(tmp_path / "m", ""))
    with database.session() as session:
        session.execute(sa.text("INSERT INTO t1 (name) VALUES ('marker-person')"))
    database.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for file in path.parent.iterdir():
        content = file.read_bytes()
        assert b"marker-person" not in content
        assert not content.startswith(b"SQLite format 3")
    database = open_database(path, KEY, tmp_path / "m")
    with database.session() as session:
        assert session.execute(sa.text("SELECT name FROM t1")).scalar_one() == "marker-person"
    database.close()


def test_one_service_opens_it_and_its_workers_beside_each_other(tmp_path: Path) -> None:
    path, scripts = tmp_path / "x.db", migrations(tmp_path / "m", "")
    alone = open_database(path, KEY, scripts)
    for shared in (False, True):
        with pytest.raises(FailedPreconditionError):
            open_database(path, KEY, scripts, shared=shared)
    alone.close()
    workers = [open_database(path, KEY, scripts, shared=True) for _ in range(2)]
    with pytest.raises(FailedPreconditionError):
        open_database(path, KEY, scripts)
    for worker in workers:
        with worker.session() as session:
            session.execute(sa.text("INSERT INTO t1 (name) VALUES ('a')"))
    for worker in workers:
        with worker.reading() as session:
            assert session.execute(sa.text("SELECT count(*) FROM t1")).scalar_one() == 2
        worker.close()


def test_another_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_database(path, KEY, migrations(tmp_path / "m", "")).close()
    with pytest.raises(DataLossError):
        open_database(path, os.urandom(32), tmp_path / "m")


def test_a_failing_migration_leaves_the_old_schema(tmp_path: Path) -> None:
    path = tmp_path / "x.db"
    open_database(path, KEY, migrations(tmp_path / "m", "")).close()
    migrations(tmp_path / "m2", "", "raise RuntimeError('power cut')")
    with pytest.raises(RuntimeError, match="power cut"):
        open_database(path, KEY, tmp_path / "m2")
    database = open_database(path, KEY, migrations(tmp_path / "m3", "", ""))
    assert set(sa.inspect(database.engine).get_table_names()) == {"alembic_version", "t1", "t2"}
    database.close()


def test_a_rolled_back_session_leaves_nothing(tmp_path: Path) -> None:
    database = open_database(tmp_path / "x.db", KEY, migrations(tmp_path / "m", ""))
    with pytest.raises(ZeroDivisionError), database.session() as session:
        session.execute(sa.text("INSERT INTO t1 (name) VALUES ('a')"))
        _ = 1 / 0
    with database.session() as session:
        assert session.execute(sa.text("SELECT count(*) FROM t1")).scalar_one() == 0
    database.close()
