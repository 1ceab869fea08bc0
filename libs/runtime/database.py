"""The database of a service, on the engine that its configuration chooses.

Beside the runtime and not in it: the secrets service has no database, and its installation no driver of one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from libs.runtime.runtime import Runtime
from libs.sql import Database, open_database, open_postgres


async def open_configured(runtime: Runtime, migrations: Path) -> Database:
    """Open PostgreSQL when ``database_url`` is set, else the file, waiting for a server as long as a start may take.

    Closing it is the caller's.

    Args:
        runtime: of the service.
        migrations: folder of the service's Alembic scripts.

    Raises:
        HedgerowError: as ``libs.sql.open_database`` and ``open_postgres`` do.
    """
    config = runtime.config

    async def attempt() -> Database:
        if not config.database_url:
            key = await runtime.data_key("sql")
            shared = config.worker_channel is not None
            return await asyncio.to_thread(open_database, runtime.sql_path(), key, migrations, shared=shared)
        return await asyncio.to_thread(
            open_postgres, config.database_url, config.database_password_file, migrations, schema=config.service
        )

    return await runtime.patiently(attempt)
