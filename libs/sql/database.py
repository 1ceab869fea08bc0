"""An open database, whatever its engine."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from hedgerow.errors import UnavailableError


class Database:
    """Make a session per unit of work, in a worker thread.

    Attributes:
        engine: for sessions that write.
    """

    def __init__(self, engine: sa.Engine, reading: sa.Engine, release: Callable[[], None] = lambda: None) -> None:
        """Take engines whose connections are ready for use.

        Args:
            engine: begins transactions that take turns.
            reading: the same pool; begins transactions that only read.
            release: called at the end, after the last connection is closed.
        """
        self.engine = engine
        self._release = release
        self._sessions = sessionmaker(engine, expire_on_commit=False)
        self._reading = sessionmaker(reading, expire_on_commit=False)

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """Yield a session in a transaction: committed and durable at the end, rolled back on an exception.

        Raises:
            UnavailableError: the server does not answer in time. Whether a commit under way was done is not known then.
        """
        with self._typed(), self._sessions.begin() as session:
            yield session

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """Yield a session that sees one state of the database and cannot change it.

        Raises:
            UnavailableError: the server does not answer in time.
        """
        with self._typed(), self._reading.begin() as session:
            yield session

    def scrub(self, table: str) -> None:
        """Give up the space that deleted rows of a table held, so that they cannot be read from it.

        SQLCipher overwrites what is deleted at once. PostgreSQL writes the table anew without it.
        """
        if self.engine.dialect.name == "postgresql":
            name = self.engine.dialect.identifier_preparer.quote(table)
            with self._typed(), self.engine.connect() as connection:
                connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql(f"VACUUM FULL {name}")

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()
        self._release()

    @contextlib.contextmanager
    def _typed(self) -> Iterator[None]:
        """Faults of a server become UNAVAILABLE; a file has none of these."""
        if self.engine.dialect.name != "postgresql":
            yield
            return
        with server_faults():
            yield


@contextlib.contextmanager
def server_faults() -> Iterator[None]:
    """Turn what a server that is away, busy or going down makes the driver raise into a typed error."""
    try:
        yield
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        raise UnavailableError(
            "the database does not answer; try again", metadata={"dependency": "database"}
        ) from error
