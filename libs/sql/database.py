"""An open database, whatever its engine."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

from hedgerow.errors import UnavailableError

# Most transactions last milliseconds.
_SCRUB_PAUSES = (0.1, 0.4, 1.5)


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

        SQLCipher overwrites what is deleted at once. PostgreSQL writes the table anew without it, for as long as that
        takes; sessions that read or write the table wait meanwhile, and give up after their usual time.

        Raises:
            UnavailableError: the server does not answer, the table is in use, or a transaction older than the deletion
                is open, which the server keeps the rows for. Call it again.
        """
        if self.engine.dialect.name != "postgresql":
            return
        for pause in (*_SCRUB_PAUSES, None):
            if self._rewrite(table):
                return
            if pause is not None:
                time.sleep(pause)
        raise UnavailableError(
            "an older transaction is open on the database, which keeps deleted rows for it; try again when it has ended",
            metadata={"dependency": "database"},
        )

    def _rewrite(self, table: str) -> bool:
        """Write a table of PostgreSQL anew, and return whether that left no deleted row in it."""
        name = self.engine.dialect.identifier_preparer.quote(table)
        said: list[str] = []
        with self._typed(), self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            driver: Any = connection.connection.driver_connection
            driver.add_notice_handler(lambda notice: said.append(notice.message_detail or ""))
            try:
                connection.exec_driver_sql("SET statement_timeout = 0")
                connection.exec_driver_sql(f"VACUUM (FULL, VERBOSE) {name}")
            finally:
                # The session ends with its connection, and its settings with it, whatever happened before.
                connection.invalidate()
        # "0 dead row versions cannot be removed yet.", in the language of the server.
        kept = [int(count[1]) for detail in said if (count := re.match(r"\D*(\d+)", detail))]
        return bool(kept) and not any(kept)

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
