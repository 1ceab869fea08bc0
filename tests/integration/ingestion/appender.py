"""A process that appends numbered rows without end, for the test that kills it.

Run as a module with a folder; prints the number of each acknowledged append on its own line.
"""

from __future__ import annotations

import itertools
import sys
import uuid
from pathlib import Path

import pyarrow as pa

from services.ingestion.append import Appending, AppendLimits, ByteBudget
from services.ingestion.catalog import Catalog
from services.ingestion.dataset import Append
from tests.unit.ingestion.ingestion_fixtures import CONTRACT, Keys, ipc, open_catalog, open_store, table_of

ROWS = 5


class LastingKeys(Keys):
    """Keys that are the same in every process."""

    def wrap(self, name: str, plaintext: bytes) -> bytes:
        self.keys.setdefault(name, bytes(32))
        return super().wrap(name, plaintext)

    def unwrap(self, name: str, wrapped: bytes) -> bytes:
        self.keys.setdefault(name, bytes(32))
        return super().unwrap(name, wrapped)


def append(catalog: Catalog, number: int) -> Append:
    """Append the rows of a number: as many good ones as ``ROWS``, and one bad one."""
    rows = table_of(*[f"{number}-{i}" for i in range(ROWS)], "", limit=pa.array([number] * (ROWS + 1), pa.int64()))
    opened = catalog.open("clients")
    request_id = str(uuid.UUID(int=number))
    with Appending(catalog, opened, request_id, limits=AppendLimits(), budget=ByteBudget(1 << 30)) as appending:
        appending.add(ipc(rows))
        return appending.commit()


def start(folder: Path) -> Catalog:
    """Return the catalog as the service has it after a start."""
    _, store = open_store(folder)
    catalog = open_catalog(folder, store, LastingKeys())
    catalog.create("clients", CONTRACT)
    catalog.settle()
    return catalog


def main() -> None:
    """Append until killed."""
    catalog = start(Path(sys.argv[1]))
    for number in itertools.count(int(sys.argv[2])):
        append(catalog, number)
        print(number, flush=True)


if __name__ == "__main__":
    main()
