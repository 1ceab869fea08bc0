"""Clients of the last tag go on working: the contract breaks nothing, and their own SDK and stubs call today's servers.

Before the first tag the mechanism is held to the same on a tag made in a temporary clone.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.contracts.compat import ROOT, breaking, check_out, last_tag, tagged_clone
from tests.integration.ingestion.conftest import Ingestion, ingestion
from tests.support.authority import folder

__all__ = ["ingestion"]

# What a client of the tag does; it sees the code of the tag alone.
CLIENT = """
import asyncio, json, sys
from pathlib import Path
import hedgerow
from hedgerow.errors import AlreadyExistsError, NotFoundError
from hedgerow.identity import IdentityFolder
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.sdk import Hedgerow

async def main():
    services = ("ingestion", "features", "training", "inference", "secrets", "governance")
    async with Hedgerow.connect(IdentityFolder(Path(sys.argv[2])), dict.fromkeys(services, sys.argv[1])) as caller:
        listed = [dataset async for dataset in caller.ingestion.list_datasets()]
        again = await caller.ingestion.create_dataset("clients", listed[0].contract)
        failed = []
        for call in (
            caller.ingestion.get_dataset("datasets/none"),
            caller.ingestion.create_dataset("clients", ingestion_pb2.Contract()),
        ):
            try:
                await call
            except Exception as error:
                failed.append([type(error).__name__, error.reason])
    print(json.dumps({
        "code": str(Path(hedgerow.__file__).parents[1]),
        "stubs": str(Path(ingestion_pb2.__file__).parents[3]),
        "listed": [dataset.name for dataset in listed],
        "columns": len(again.contract.columns),
        "failed": failed,
    }))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last tag, or where there is none the current commit as if it were one."""
    folder = tmp_path_factory.mktemp("compat")
    tag = last_tag()
    repository = ROOT if tag else tagged_clone(folder / "clone")
    found = last_tag(repository)
    assert found is not None
    return check_out(repository, found, folder / "earlier")


def test_the_contract_breaks_no_client_of_the_last_tag(earlier: Path) -> None:
    assert breaking(earlier / "protos") == []


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("ingestion/v1/ingestion.proto", "int64 row_count = 4;", "string row_count = 4;", "row_count"),
        ("ingestion/v1/ingestion.proto", "int64 version = 3;", "int64 version = 33;", '"3"'),
        (
            "errors/v1/error_reason.proto",
            "ERROR_REASON_RATE_LIMITED = 20;",
            "ERROR_REASON_LIMITED = 20;",
            "RATE_LIMITED",
        ),
    ],
)
def test_a_change_that_breaks_clients_is_found(
    earlier: Path, tmp_path: Path, file: str, old: str, new: str, told: str
) -> None:
    changed = tmp_path / "protos"
    shutil.copytree(ROOT / "protos", changed)
    path = changed / "hedgerow" / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    found = breaking(earlier / "protos", changed)
    assert found
    assert any(told in line for line in found)


async def test_the_sdk_of_the_last_tag_calls_a_server_of_today(
    earlier: Path, ingestion: Ingestion, tmp_path: Path
) -> None:
    created = await ingestion.create("clients")
    ana = folder(tmp_path / "ana", ingestion.served.authority.user("ana"))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-W", "error", "-c", CLIENT, ingestion.served.target, str(ana.folder)),
        cwd=earlier,
        env=os.environ | {"PYTHONPATH": str(earlier)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(120):
        out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    assert json.loads(out) == {
        "code": str(earlier),
        "stubs": str(earlier),
        "listed": ["datasets/clients"],
        "columns": len(created.contract.columns),
        "failed": [["NotFoundError", "RESOURCE_NOT_FOUND"], ["InvalidArgumentError", "FIELD_INVALID"]],
    }
