"""SQLCipher (AES-256): one file, whose key is a data key that the secrets service unwraps, and one service."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlcipher3.dbapi2 as sqlcipher

from hedgerow.errors import DataLossError, FailedPreconditionError
from libs.sql.database import Database
from libs.sql.migrate import migrate

BUSY_MILLISECONDS = 5000
_READING = "hedgerow_reading"


def open_database(path: Path, key: bytes, migrations: Path, *, shared: bool = False) -> Database:
    """Open a SQLCipher file, made when missing, and bring its schema up to date.

    Args:
        path: the database file; created with mode 0600.
        key: 32 raw bytes.
        migrations: folder of the service's Alembic scripts (``versions/`` inside).
        shared: whether the workers of one service open it beside each other; each of them must say so.

    Raises:
        DataLossError: the file does not open with this key.
        FailedPreconditionError: another process has it open, or a later release changed it.
    """
    if len(key) != 32:
        raise ValueError("the key must have 32 bytes")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    lock = _lock(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def connect() -> Any:
        connection = sqlcipher.connect(
            str(path), check_same_thread=False, timeout=BUSY_MILLISECONDS / 1000, isolation_level=None
        )
        connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    engine = sa.create_engine(
        "sqlite://", creator=connect, module=sqlcipher, poolclass=sa.pool.QueuePool, hide_parameters=True
    )
    sa.event.listen(engine, "begin", _begin)
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT count(*) FROM sqlite_master"))
        with engine.begin() as connection:
            migrate(connection, migrations)
    except BaseException as error:
        engine.dispose()
        os.close(lock)
        if isinstance(error, (sa.exc.DatabaseError, sqlcipher.DatabaseError)) and "not a database" in str(error):
            raise DataLossError("the database does not open with this key", metadata={"file": path.name}) from error
        raise
    return Database(engine, engine.execution_options(**{_READING: True}), lambda: os.close(lock))


def _begin(connection: sa.Connection) -> None:
    """Begin what the driver would begin only before the first INSERT, leaving DDL outside.

    IMMEDIATE, because a read transaction that turns into a write under another writer fails without waiting.
    """
    reading = connection.get_execution_options().get(_READING)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _lock(path: Path, kind: int) -> int:
    """Take the file for this process until the descriptor is closed, or for it and others that share it.

    Two services would each hold caches of their own.

    Raises:
        FailedPreconditionError: another process has it.
    """
    descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise FailedPreconditionError(
            "another process has this database open; replicas need PostgreSQL: set HEDGEROW_DATABASE_URL",
            metadata={"file": path.name},
        ) from error
    return descriptor
