"""Brings a schema up to date with the Alembic scripts of a service."""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from hedgerow.errors import FailedPreconditionError


def is_current(connection: sa.Connection, migrations: Path) -> bool:
    """Return whether nothing is missing: one short query."""
    wanted = set(ScriptDirectory.from_config(_config(migrations)).get_heads())
    return set(MigrationContext.configure(connection).get_current_heads()) == wanted


def migrate(connection: sa.Connection, migrations: Path) -> None:
    """Run what is missing in the transaction of the connection: both engines roll DDL back, so a kill leaves the old
    schema or the new.

    Raises:
        FailedPreconditionError: a later release changed the schema.
    """
    config = _config(migrations)
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if not known.issuperset(MigrationContext.configure(connection).get_current_heads()):
        raise FailedPreconditionError("a later release has changed this database; start that release")
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise FailedPreconditionError("the migrations of this release do not fit together") from error


def _config(migrations: Path) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("version_locations", str(migrations / "versions"))
    config.set_main_option("path_separator", "os")
    return config
