"""The exec probe of a container against a real server: what a kubelet would see."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from libs.rpc.probe import local_target, main
from tests.support import echo
from tests.support.authority import folder
from tests.support.serving import Served, serving

ROOT = Path(__file__).parents[3]


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path / "served", [echo.echo_service(echo.Echo())]) as running:
        yield running


def environment(served: Served, **changes: str) -> dict[str, str]:
    # The listening address of a container is that of all interfaces.
    return {
        "HEDGEROW_SERVICE": "ingestion",
        "HEDGEROW_LISTEN": f"0.0.0.0:{served.server.port}",
        "HEDGEROW_DATA_DIR": str(served.tmp / "data"),
        **changes,
    }


async def probe(served: Served, *arguments: str, **changes: str) -> int:
    return await asyncio.to_thread(main, arguments, environment(served, **changes))


def give_identity(served: Served) -> None:
    folder(served.tmp / "data" / "identity", served.authority.service("ingestion"))


async def test_a_service_that_serves_is_ready_and_one_that_drains_is_only_live(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    give_identity(served)
    assert await probe(served) == 0
    assert await probe(served, "--live") == 0
    await served.server.health.set(False)
    assert await probe(served) == 1
    assert capsys.readouterr().err == "probe: NOT_SERVING\n"
    assert await probe(served, "--live") == 0


async def test_the_command_itself_exits_with_the_answer(served: Served) -> None:
    give_identity(served)
    command = [sys.executable, "-m", "libs.rpc.probe"]
    done = await asyncio.to_thread(
        subprocess.run,
        command,
        env=environment(served, PYTHONPATH=str(ROOT)),
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


async def test_who_has_no_good_certificate_is_neither_live_nor_ready(
    served: Served, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await probe(served, "--live") == 1
    assert capsys.readouterr().err == "probe: the service has no identity yet\n"
    from tests.support.authority import Authority

    folder(served.tmp / "data" / "identity", Authority("another root").service("ingestion"))
    assert await probe(served, "--live", "--timeout", "1") == 1


async def test_a_server_of_another_name_is_not_this_service(served: Served) -> None:
    give_identity(served)
    assert await probe(served, "--timeout", "1", HEDGEROW_SERVICE="features") == 1


async def test_a_missing_variable_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([], {"HEDGEROW_SERVICE": "ingestion"}) == 1
    assert capsys.readouterr().err == "probe: HEDGEROW_LISTEN is not set\n"


async def test_a_server_that_is_away_is_not_live(served: Served, tmp_path: Path) -> None:
    give_identity(served)
    await served.server.stop(notice=0, grace=0)
    assert await probe(served, "--live", "--timeout", "1") == 1


@pytest.mark.parametrize(
    ("listen", "target"),
    [
        ("0.0.0.0:7443", "127.0.0.1:7443"),
        ("[::]:7443", "[::1]:7443"),
        (":1", "127.0.0.1:1"),
        ("10.1.2.3:4", "10.1.2.3:4"),
    ],
)
def test_an_address_for_all_interfaces_is_asked_on_the_loopback(listen: str, target: str) -> None:
    assert local_target(listen) == target
