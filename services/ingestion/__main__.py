"""Starts the ingestion service."""

from __future__ import annotations

import asyncio
import datetime as dt
import os
from pathlib import Path

from libs.config import load
from libs.identity.grants import signing_key
from libs.lake import LakeStorage
from libs.runtime import Runtime, run
from libs.runtime.database import open_configured
from services.ingestion.catalog import Catalog
from services.ingestion.config import IngestionConfig
from services.ingestion.service import IngestionService, rpc_service
from services.ingestion.store import IngestionStore
from services.ingestion.workers import Workers

MIGRATIONS = Path(__file__).parent / "migrations"
GRANTS_KEY = signing_key("ingestion")


class RuntimeKeys:
    """The secrets service, for callers on worker threads; see ``catalog.Keys``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def wrap(self, key: str, plaintext: bytes) -> bytes:
        """Return key material wrapped under ``keys/{key}``."""
        return self._runtime.wait(self._runtime.secrets.wrap(key, plaintext))

    def unwrap(self, key: str, wrapped: bytes) -> bytes:
        """Return key material in clear."""
        return self._runtime.wait(self._runtime.secrets.unwrap(key, wrapped))

    def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        """Return 32 fresh bytes and the same bytes wrapped."""
        return self._runtime.wait(self._runtime.secrets.create_data_key(key))

    def pseudonym_key(self, domain: str) -> bytes:
        """Return the key of a pseudonym domain."""
        return self._runtime.wait(self._runtime.secrets.pseudonym_key(domain))


async def main(config: IngestionConfig) -> int:
    """Build the service and serve until told to stop; return the exit code."""
    runtime = await Runtime.start(config)
    database = await open_configured(runtime, MIGRATIONS)
    runtime.on_close(lambda: asyncio.to_thread(database.close))
    workers = Workers(config.lake_threads)
    runtime.on_close(workers.close)
    runtime.pools.append(workers.pool)
    catalog = Catalog(
        IngestionStore(database, max_datasets=config.max_datasets),
        RuntimeKeys(runtime),
        config.lake_location or (runtime.data_dir / "lake").resolve().as_uri(),
        storage=LakeStorage.of(config),
        orphans_older_than=dt.timedelta(seconds=config.orphan_age_seconds),
    )
    await workers.run(lambda _: catalog.settle())
    servicer = IngestionService(
        catalog,
        workers,
        sign=lambda payload: runtime.secrets.sign(GRANTS_KEY, payload),
        limits=config.append_limits(),
        grant_life=config.grant_life,
        now=lambda: dt.datetime.now(dt.UTC),
    )
    servicer.counts.show(runtime.metrics.instruments)
    return await runtime.serve([rpc_service(servicer)])


if __name__ == "__main__":
    os.umask(0o077)
    settings = load(IngestionConfig)
    run(settings, lambda: main(settings))
