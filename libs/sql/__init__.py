"""SQL sessions and migrations on an encrypted database.

One machine: SQLCipher (AES-256), one file and one writer process per service, with the raw key of a data key that the
secrets service unwraps. Migrations are Alembic scripts of the service, run at start-up before anything is served.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import sqlcipher3.dbapi2 as sqlcipher
from alembic import command
from alembic.config import Config
from sqlalchemy.orm import Session, sessionmaker

from hedgerow.errors import DataLossError

BUSY_MILLISECONDS = 5000


class Database:
    """An open database: make a session per unit of work, in a worker thread."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine = engine
        self._sessions = sessionmaker(engine, expire_on_commit=False)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session in a transaction: committed and durable at the end, rolled back on an exception."""
        with self._sessions.begin() as session:
            yield session

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_database(path: Path, key: bytes, migrations: Path) -> Database:
    """Open a SQLCipher file, made when missing, and bring its schema up to date.

    Args:
        path: the database file; created with mode 0600.
        key: 32 raw bytes.
        migrations: folder of the service's Alembic scripts (``versions/`` inside).

    Raises:
        DataLossError: the file does not open with this key.
    """
    if len(key) != 32:
        raise ValueError("the key must have 32 bytes")
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))

    def connect() -> Any:
        connection = sqlcipher.connect(
            str(path), check_same_thread=False, timeout=BUSY_MILLISECONDS / 1000, isolation_level=None
        )
        connection.execute(f"PRAGMA key = \"x'{key.hex()}'\"")
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    engine = sa.create_engine("sqlite://", creator=connect, module=sqlcipher, poolclass=sa.pool.QueuePool)
    # The driver would open a transaction only before the first INSERT and leave DDL outside it. IMMEDIATE, because a
    # read transaction that turns into a write under another writer fails without waiting.
    sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("SELECT count(*) FROM sqlite_master"))
    except (sa.exc.DatabaseError, sqlcipher.DatabaseError) as error:
        engine.dispose()
        raise DataLossError("the database does not open with this key", metadata={"file": path.name}) from error
    _migrate(engine, migrations)
    return Database(engine)


def _migrate(engine: sa.Engine, migrations: Path) -> None:
    """Run what is missing in one transaction: SQLite rolls back DDL, so a kill leaves the old schema or the new."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("version_locations", str(migrations / "versions"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
