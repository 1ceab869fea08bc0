"""The TypeScript package, built from its lock file, against running services over mutual TLS."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from pathlib import Path

import pytest

from hedgerow.errors import InvalidArgumentError, UnavailableError
from hedgerow.identity import Identity
from tests.integration.ingestion.conftest import Ingestion, ingestion
from tests.integration.sdk.mirror import AREAS, Suite, descriptor, mirrored
from tests.integration.sdk_typescript.package import SOURCE, built, run
from tests.support.authority import Authority, folder, service_id
from tests.support.serving import serving

__all__ = ["ingestion"]

pytestmark = pytest.mark.skipif(not (shutil.which("node") and shutil.which("npm")), reason="needs Node and npm")


class Impostor(Authority):
    """Gives the features service a certificate with the DNS name of ingestion."""

    def __init__(self, authority: Authority) -> None:
        self._key, self.certificate = authority._key, authority.certificate

    def service(self, name: str, **options: object) -> Identity:
        return self.issue(service_id("features"), dns=["ingestion.hedgerow.local"])


@pytest.fixture(scope="module")
def package() -> Path:
    return asyncio.run(built())


async def test_its_own_tests_pass(package: Path) -> None:
    assert "fail 0" in await run("npm", "test", cwd=package)


async def test_every_rpc_from_node(package: Path, tmp_path: Path) -> None:
    async with mirrored(tmp_path) as suite:
        suite.mirror.gates = {"slow": asyncio.Event(), "rotation_stream": asyncio.Event()}
        suite.mirror.failures_for = {
            "away_twice": [UnavailableError("away"), UnavailableError("away")],
            "away": [UnavailableError("away")],
            "invalid": [InvalidArgumentError("no", fields={"name": "expected datasets/{dataset}"})],
        }
        impostor = serving(
            tmp_path / "impostor", [suite.mirror.service("ingestion")], authority=Impostor(suite.authority)
        )
        async with impostor as misleading, asyncio.TaskGroup() as tasks:
            rotation = tasks.create_task(rotate(suite))
            await run(
                *("node", "--test", "dist/live/mirror.test.js"),
                cwd=package,
                ADDRESSES=json.dumps(suite.addresses),
                IDENTITY_FOLDER=str(suite.identity.folder),
                IMPOSTOR=misleading.target,
            )
            await rotation
    called = [name for name, purpose in suite.mirror.calls if purpose == "every"]
    assert set(called) == {method.full_name for area in AREAS for method in descriptor(area).methods}
    assert len([1 for _, purpose in suite.mirror.calls if purpose == "away_twice"]) == 3
    assert len([1 for _, purpose in suite.mirror.calls if purpose == "away"]) == 1
    assert not [name for name, purpose in suite.mirror.calls if purpose == "unmade"]


async def rotate(suite: Suite) -> None:
    """Renew Ana's certificate while she calls; end her stream when her new calls go over the new connection."""
    await called(suite, "rotation")
    await called(suite, "rotation_stream")
    suite.identity.save(suite.authority.user("ana"))
    await called(suite, "rotated")
    suite.mirror.gates["rotation_stream"].set()


async def called(suite: Suite, purpose: str) -> None:
    async with asyncio.timeout(120):
        while not any(stated == purpose for _, stated in suite.mirror.calls):
            await asyncio.sleep(0.05)


async def test_a_real_service_from_node(package: Path, ingestion: Ingestion) -> None:
    await ingestion.create("clients")
    ana = ingestion.served.tmp / "node-ana"
    folder(ana, ingestion.served.authority.user("ana"))
    seen = await run(
        *("node", "dist/live/ingestion.js"), cwd=package, ADDRESS=ingestion.served.target, IDENTITY_FOLDER=str(ana)
    )
    assert json.loads(seen) == {
        "names": ["datasets/clients"],
        "version": "0",
        "missing": ["NotFoundError", "NOT_FOUND", "RESOURCE_NOT_FOUND"],
        "malformed": ["InvalidArgumentError", "FIELD_INVALID", ["name"]],
    }


def test_the_lock_file_names_exact_versions_and_no_hosts() -> None:
    package = json.loads((SOURCE / "package.json").read_text())
    for version in (package["dependencies"] | package["devDependencies"]).values():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    lock = (SOURCE / "package-lock.json").read_text()
    assert '"resolved"' not in lock
    for name, entry in json.loads(lock)["packages"].items():
        assert not name or entry["integrity"].startswith("sha512-")
