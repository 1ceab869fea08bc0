"""PostgreSQL as the database of replicas: verified TLS alone, migrations once, sessions that take turns."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from hedgerow.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from libs.sql import Database, open_database, open_postgres
from libs.sql.postgres import _number
from services.training.migrations import MIGRATIONS
from services.training.store import TrainingStore
from suite.backing.postgres import Postgres
from tests.support.backing import start, tls_files
from tests.support.migrating import administrators, replica, write_migrations
from tests.support.openbao import free_port, stop

SPAWN = multiprocessing.get_context("spawn")
REPLICAS = 5
PATIENCE_SECONDS = 60.0


def open_training(server: Postgres) -> Database:
    settings = server.service_environment("training")
    password_file = Path(settings["HEDGEROW_DATABASE_PASSWORD_FILE"])
    return open_postgres(settings["HEDGEROW_DATABASE_URL"], password_file, MIGRATIONS, schema="training")


def test_replicas_that_start_at_once_migrate_once(postgres: Postgres, tmp_path: Path) -> None:
    """DB-01."""
    url, password_file = administrators(postgres)
    first = write_migrations(tmp_path / "first", "")
    all_three = write_migrations(tmp_path / "all", "", "", "")
    with ProcessPoolExecutor(REPLICAS, mp_context=SPAWN) as processes:
        for number in range(2):
            for migrations in (first, all_three):
                started = [
                    processes.submit(replica, url, password_file, migrations, f"empty{number}") for _ in range(REPLICAS)
                ]
                ran = [future.result(PATIENCE_SECONDS) for future in started]
                assert ran == [[1] if migrations is first else [1, 2, 3]] * REPLICAS
            started = [
                processes.submit(replica, url, password_file, all_three, f"whole{number}") for _ in range(REPLICAS)
            ]
            assert [future.result(PATIENCE_SECONDS) for future in started] == [[1, 2, 3]] * REPLICAS


def test_a_start_with_nothing_to_do_waits_for_no_lock(postgres: Postgres, tmp_path: Path) -> None:
    """DB-03."""
    url, password_file = administrators(postgres)
    migrations = write_migrations(tmp_path / "m", "")
    database = open_postgres(url, password_file, migrations, schema="flat")
    with database.engine.connect() as holder:
        holder.exec_driver_sql(f"SELECT pg_advisory_lock({_number('hedgerow migrations of flat')})")
        assert replica(url, password_file, migrations, "flat") == [1]
        holder.invalidate()
    database.close()


def test_a_file_takes_one_replica(tmp_path: Path) -> None:
    """DB-03."""
    migrations = write_migrations(tmp_path / "m", "")
    database = open_database(tmp_path / "x.db", bytes(32), migrations)
    with pytest.raises(FailedPreconditionError, match="HEDGEROW_DATABASE_URL"):
        open_database(tmp_path / "x.db", bytes(32), migrations)
    database.close()
    open_database(tmp_path / "x.db", bytes(32), migrations).close()


def test_a_killed_migration_leaves_nothing_and_the_next_start_goes_on(postgres: Postgres, tmp_path: Path) -> None:
    """DB-04."""
    url, password_file = administrators(postgres)
    open_postgres(url, password_file, write_migrations(tmp_path / "old", ""), schema="killed").close()
    stuck = write_migrations(tmp_path / "stuck", "", "op.execute('SELECT pg_sleep(600)')")
    process = SPAWN.Process(target=replica, args=(url, password_file, stuck, "killed"))
    process.start()
    watching = open_postgres(url, password_file, tmp_path / "old", schema="killed")
    sleeping = sa.text("SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'")
    deadline = time.monotonic() + PATIENCE_SECONDS
    with watching.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while not connection.execute(sleeping).scalar_one():
            assert time.monotonic() < deadline
            assert process.is_alive()
            time.sleep(0.05)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    with watching.reading() as session:
        assert list(session.execute(sa.text("SELECT id FROM t1")).scalars()) == [1]
    watching.close()
    good = write_migrations(tmp_path / "good", "", "", "")
    assert replica(url, password_file, good, "killed") == [1, 2, 3]


def test_a_failing_migration_leaves_the_old_schema(postgres: Postgres, tmp_path: Path) -> None:
    """DB-04."""
    url, password_file = administrators(postgres)
    open_postgres(url, password_file, write_migrations(tmp_path / "old", ""), schema="failed").close()
    bad = write_migrations(tmp_path / "bad", "", "", "raise RuntimeError('power cut')")
    with pytest.raises(RuntimeError, match="power cut"):
        open_postgres(url, password_file, bad, schema="failed")
    assert replica(url, password_file, tmp_path / "old", "failed") == [1]


def test_an_older_release_does_not_touch_a_later_schema(postgres: Postgres, tmp_path: Path) -> None:
    url, password_file = administrators(postgres)
    open_postgres(url, password_file, write_migrations(tmp_path / "new", "", ""), schema="later").close()
    with pytest.raises(FailedPreconditionError, match="later release"):
        open_postgres(url, password_file, write_migrations(tmp_path / "old", ""), schema="later")


@pytest.mark.parametrize(
    ("change", "demand"),
    [
        (("sslmode=verify-full", "sslmode=require"), "sslmode=verify-full"),
        (("sslmode=verify-full", "sslmode=verify-ca"), "sslmode=verify-full"),
        (("sslmode=verify-full&", ""), "sslmode=verify-full"),
        (("postgresql:", "mysql:"), "postgresql://"),
        (("training@", "training:hunter2@"), "database_password_file"),
        (("sslrootcert=", "sslrootcert=/none"), "sslrootcert"),
        (("sslrootcert=", "sslkey="), "sslrootcert"),
        (("?", "?options=-csearch_path%3Dgovernance&"), "options"),
        (("training@", ""), "user"),
    ],
)
def test_an_address_that_is_not_safe_is_refused(
    postgres: Postgres, change: tuple[str, str], demand: str, tmp_path: Path
) -> None:
    url = postgres.service_environment("training")["HEDGEROW_DATABASE_URL"].replace(*change)
    with pytest.raises(InvalidArgumentError, match=demand) as caught:
        open_postgres(url, postgres.password_file("training"), MIGRATIONS, schema="training")
    assert list(caught.value.fields) == ["database_url"]
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("file", [None, "missing"])
def test_a_password_that_is_not_there_is_named(postgres: Postgres, file: str | None, tmp_path: Path) -> None:
    url = postgres.service_environment("training")["HEDGEROW_DATABASE_URL"]
    with pytest.raises(InvalidArgumentError) as caught:
        open_postgres(url, tmp_path / file if file else None, MIGRATIONS, schema="training")
    assert list(caught.value.fields) == ["database_password_file"]


def test_an_unproven_server_and_a_wrong_password_are_unavailable(postgres: Postgres, tmp_path: Path) -> None:
    settings = postgres.service_environment("training")
    url, password_file = settings["HEDGEROW_DATABASE_URL"], postgres.password_file("training")
    stranger = tls_files(tmp_path / "tls").ca
    for changed, file in (
        (f"{url.partition('sslrootcert=')[0]}sslrootcert={stranger}", password_file),
        (url, postgres.password_file("features")),
    ):
        with pytest.raises(UnavailableError) as caught:
            open_postgres(changed, file, MIGRATIONS, schema="training")
        assert file.read_text() not in str(caught.value)


def test_a_service_reaches_no_schema_but_its_own(postgres: Postgres) -> None:
    database = open_training(postgres)
    settings = postgres.service_environment("features")
    features = Path(settings["HEDGEROW_DATABASE_PASSWORD_FILE"])
    other = open_postgres(settings["HEDGEROW_DATABASE_URL"], features, MIGRATIONS, schema="features")
    with pytest.raises(sa.exc.ProgrammingError, match="permission denied"), other.reading() as session:
        session.execute(sa.text("SELECT * FROM training.models"))
    database.close()
    other.close()


def test_sessions_of_replicas_take_turns(postgres: Postgres) -> None:
    replicas = [open_training(postgres) for _ in range(2)]
    stores = [TrainingStore(database) for database in replicas]
    with ThreadPoolExecutor(4) as threads:
        numbers = list(threads.map(lambda index: stores[index % 2].next_number("turns"), range(60)))
    assert sorted(numbers) == list(range(1, 61))
    for database in replicas:
        database.close()


def test_what_a_reading_session_sees_does_not_change_and_cannot_be_changed(postgres: Postgres) -> None:
    database = open_training(postgres)
    store = TrainingStore(database)
    count = sa.text("SELECT last_number FROM models WHERE id = 'seen'")
    store.next_number("seen")
    with database.reading() as session:
        assert session.execute(count).scalar_one() == 1
        store.next_number("seen")
        assert session.execute(count).scalar_one() == 1
    with pytest.raises(sa.exc.DBAPIError, match="read-only"), database.reading() as session:
        session.execute(sa.text("DELETE FROM models"))
    database.close()


def test_a_scrub_leaves_no_byte_that_anyone_may_still_see(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that began before the deletion makes the server keep the rows: then it was no scrub."""
    monkeypatch.setattr("libs.sql.database._SCRUB_PAUSES", (0.01,))
    database, marker = open_training(postgres), b"marker-of-the-scrubbed"
    statements: list[str] = []
    sa.event.listen(database.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    with database.session() as session:
        session.execute(sa.text("INSERT INTO models VALUES (:id, 1)"), {"id": marker.decode()})
    with database.reading() as older:
        older.execute(sa.text("SELECT count(*) FROM model_aliases"))
        with database.session() as session:
            session.execute(sa.text("DELETE FROM models WHERE id = :id"), {"id": marker.decode()})
        with pytest.raises(UnavailableError, match="an older transaction"):
            database.scrub("models")
        assert on_disk(postgres, marker)
    database.scrub("models")
    assert not on_disk(postgres, marker)
    # A large table takes its time, which is nobody else's.
    assert statements[-2:] == ["SET statement_timeout = 0", "VACUUM (FULL, VERBOSE) models"]
    with database.reading() as session:
        assert session.execute(sa.text("SHOW statement_timeout")).scalar_one() == "30s"
    database.close()


def on_disk(postgres: Postgres, marker: bytes) -> bool:
    """Whether a table or index of the server has bytes, once all is written."""
    url, password_file = administrators(postgres)
    engine = sa.create_engine(
        sa.make_url(url).set(drivername="postgresql+psycopg", password=password_file.read_text()),
        isolation_level="AUTOCOMMIT",
    )
    with engine.connect() as connection:
        connection.exec_driver_sql("CHECKPOINT")
    engine.dispose()
    return any(marker in path.read_bytes() for path in (postgres.folder / "data" / "base").rglob("*") if path.is_file())


def test_a_password_that_cannot_be_read_for_a_while(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.service_environment("training")["HEDGEROW_DATABASE_URL"]
    password_file = tmp_path / "password"
    password_file.write_text(postgres.password_file("training").read_text())
    database = open_postgres(url, password_file, MIGRATIONS, schema="training")
    try:
        database.engine.dispose()
        password_file.rename(tmp_path / "moved")
        with pytest.raises(UnavailableError, match="password"), database.reading() as session:
            session.execute(sa.text("SELECT 1"))
        (tmp_path / "moved").rename(password_file)
        with database.reading() as session:
            assert session.execute(sa.text("SELECT 1")).scalar_one() == 1
    finally:
        database.close()


def test_a_server_that_goes_and_comes_back(tmp_path: Path) -> None:
    server = Postgres(tmp_path / "server", free_port(), tls_files(tmp_path / "tls"))
    process = start(server, tmp_path)
    database = open_training(server)
    store = TrainingStore(database)
    try:
        assert store.next_number("credit") == 1
        stop(process)
        with pytest.raises(UnavailableError):
            store.next_number("credit")
        process = start(server, tmp_path)
        assert store.next_number("credit") == 2
        with pytest.raises(sa.exc.IntegrityError), database.session() as session:
            for _ in range(2):
                session.execute(sa.text("INSERT INTO models VALUES (:id, 1)"), {"id": "marker-person"})
    finally:
        database.close()
        stop(process)
    assert b"marker-person" not in (tmp_path / "postgres.log").read_bytes()
