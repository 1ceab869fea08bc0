"""PostgreSQL: one schema per service, shared by its replicas, reached over TLS that proves the server.

Disk encryption is the platform's part here; what must not be read even by who holds the disk is sealed by the service
before it is stored (``docs/adr/0013-distributed-stores.md``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from hedgerow.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from libs.sql.database import Database, server_faults
from libs.sql.migrate import is_current, migrate

POOL_SIZE = 4
POOL_OVERFLOW = 8
POOL_WAIT_SECONDS = 10
MIGRATION_WAIT_SECONDS = 120
_SESSION_OPTIONS = {
    "statement_timeout": "30s",
    # A session that waits longer for its turn gives up; so does one that forgets to end.
    "lock_timeout": "10s",
    "idle_in_transaction_session_timeout": "60s",
    # What a killed process was running ends soon after it, and its locks with it.
    "client_connection_check_interval": "2s",
    "timezone": "UTC",
}
_PARAMETERS = frozenset({"sslmode", "sslrootcert", "sslcert", "sslkey"})
_READING = "hedgerow_reading"


def open_postgres(url: str, password_file: Path | None, migrations: Path, *, schema: str) -> Database:
    """Connect to a PostgreSQL database and bring the schema of a service up to date, once over all replicas.

    Args:
        url: ``postgresql://user@host:port/database?sslmode=verify-full&sslrootcert=/path``; ``sslcert`` and ``sslkey``
            may name a client certificate.
        password_file: holds the password; read for each connection, so that a changed one is taken up.
        migrations: folder of the service's Alembic scripts (``versions/`` inside).
        schema: made when missing.

    Raises:
        InvalidArgumentError: the URL or the password file cannot be accepted; the field is named.
        FailedPreconditionError: the database sorts text other than by its bytes, or a later release changed it.
        UnavailableError: the server does not answer, or another replica is still migrating.
    """
    address = check_url(url)
    password = _password(password_file, address)
    engine = sa.create_engine(
        address.set(drivername="postgresql+psycopg"),
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_WAIT_SECONDS,
        pool_pre_ping=True,
        hide_parameters=True,
        connect_args={
            "connect_timeout": 5,
            "application_name": f"hedgerow-{schema}",
            "options": " ".join(f"-c{name}={value}" for name, value in _options(schema).items()),
        },
    )

    @sa.event.listens_for(engine, "do_connect")
    def _connect(_dialect: Any, _record: Any, _args: Any, parameters: dict[str, Any]) -> None:
        parameters.update(password())

    turn = _number(f"hedgerow turn of {schema}")
    try:
        with server_faults():
            _check_and_migrate(engine, migrations, schema)
    except BaseException:
        engine.dispose()
        raise

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        """Wait for the turn, as SQLite's BEGIN IMMEDIATE does."""
        if not connection.get_execution_options().get(_READING):
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({turn})")

    reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True, **{_READING: True})
    return Database(engine, reading)


def check_url(url: str) -> sa.URL:
    """Return an address that is safe to connect to.

    Raises:
        InvalidArgumentError: it is not; the message never repeats it, for it might hold a password.
    """
    try:
        address = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError) as error:
        raise _refused(
            "is no URL; expected postgresql://user@host:port/database?sslmode=verify-full&sslrootcert=…"
        ) from error
    unknown = sorted(set(address.query) - _PARAMETERS)
    rules = [
        (address.drivername == "postgresql", "must begin with postgresql://"),
        (address.password is None, "must hold no password; name its file in database_password_file"),
        (bool(address.host and address.username and address.database), "must name user, host and database"),
        (
            not unknown,
            f"has the parameter {unknown[0] if unknown else ''!r}; known are {', '.join(sorted(_PARAMETERS))}",
        ),
        (address.query.get("sslmode") == "verify-full", "must say sslmode=verify-full; nothing less proves the server"),
        (bool(address.query.get("sslrootcert")), "must name the CA of the server as sslrootcert"),
    ]
    for holds, demand in rules:
        if not holds:
            raise _refused(demand)
    for name in sorted(_PARAMETERS - {"sslmode"}):
        file = str(address.query.get(name, "system"))
        if file != "system" and not Path(file).is_file():
            raise _refused(f"names a {name} that is no file")
    return address


def _refused(demand: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"database_url {demand}", fields={"database_url": demand})


def _password(file: Path | None, address: sa.URL) -> Callable[[], dict[str, str]]:
    if file is None:
        if "sslcert" not in address.query:
            demand = "is needed, unless database_url names a client certificate as sslcert"
            raise InvalidArgumentError(f"database_password_file {demand}", fields={"database_password_file": demand})
        return dict

    def read() -> dict[str, str]:
        return {"password": file.read_text().strip()}

    def read_later() -> dict[str, str]:
        try:
            return read()
        except (OSError, UnicodeError) as error:
            raise UnavailableError(
                "the password of the database cannot be read; try again", metadata={"dependency": "database"}
            ) from error

    try:
        read()
    except (OSError, UnicodeError) as error:
        demand = "cannot be read"
        raise InvalidArgumentError(
            f"database_password_file {demand}", fields={"database_password_file": demand}
        ) from error
    return read_later


def _options(schema: str) -> dict[str, str]:
    return {"search_path": schema, **_SESSION_OPTIONS}


def _number(purpose: str) -> int:
    """Return the number of an advisory lock."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "big", signed=True)


def _check_and_migrate(engine: sa.Engine, migrations: Path, schema: str) -> None:
    """Migrate under a lock of the session, for one of a transaction would end with a migration that commits."""
    with engine.connect() as connection:
        # An ICU or libc collation would page names in another order than the stores expect.
        if not connection.execute(sa.text("SELECT 'a-c' < 'ab' AND 'B' < 'a' AND '_' < 'a'")).scalar_one():
            raise FailedPreconditionError(
                "the database must sort text by bytes; create it with LOCALE 'C' from template0"
            )
        # First without the lock: most starts have nothing to do, and must not wait for each other.
        if is_current(connection, migrations):
            return
    lock = _number(f"hedgerow migrations of {schema}")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{MIGRATION_WAIT_SECONDS}s'")
        connection.exec_driver_sql("SET statement_timeout = 0")
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({lock})")
        connection.commit()
        try:
            with connection.begin():
                exists = sa.text("SELECT 1 FROM pg_namespace WHERE nspname = :schema")
                if connection.execute(exists, {"schema": schema}).scalar() is None:
                    connection.execute(sa.schema.CreateSchema(schema))
                migrate(connection, migrations)
        finally:
            # The session ends with its connection, and the lock and the settings with it, whatever happened before.
            connection.invalidate()
