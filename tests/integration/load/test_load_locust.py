"""Locust drives the generator against a real echo server over mutual TLS: field cases LOC-01, LOC-02, LOC-03 and LOC-05."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from loadtests.drive import Plan, drive
from loadtests.generator import SCENARIO
from loadtests.ledger import Ledger
from loadtests.locust_kinds import KINDS
from loadtests.verdict import Generators, failures, load_budgets, void_reasons
from tests.support.authority import folder
from tests.support.echo import Echo, echo_service
from tests.support.load_echo import FOLDER, IDLE, STREAM_DEADLINE, TARGET, WHAT
from tests.support.serving import serving

SECONDS = 5.0
# What Locust and the generators take to start and to end, on a busy machine.
AROUND_SECONDS = 25.0


@pytest.fixture
async def environment(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """What tells the generator where the echo server is."""
    async with serving(tmp_path, [echo_service(Echo())]) as served:
        folder(tmp_path / "ana", served.authority.user("ana"))
        yield {
            SCENARIO: "tests.support.load_echo:open_echo",
            TARGET: f"127.0.0.1:{served.server.port}",
            FOLDER: str(tmp_path / "ana"),
        }


async def run(
    environment: dict[str, str],
    what: str,
    users: int,
    workers: int = 1,
    html: Path | None = None,
    seconds: float = SECONDS,
) -> tuple[Ledger, Generators]:
    return await drive(Plan("soak", seconds, users, workers, {**environment, WHAT: what}, html))


async def test_users_overlap_and_every_call_is_counted(environment: dict[str, str], tmp_path: Path) -> None:
    """LOC-01: nothing blocks under gevent, more users make more calls, and Locust sees each of them."""
    one, few = await run(environment, "short", 1)
    many, together = await run(environment, "short", 40, html=tmp_path / "locust.html")
    assert few.most_in_flight == 1
    assert together.most_in_flight > 20
    calls = [sum(tally.calls for tally in ledger.services.values()) for ledger in (one, many)]
    assert calls[1] > 3 * calls[0] > 0
    assert failures(one) == failures(many) == 0
    assert set(many.services) == {kind.name for kind in KINDS}
    assert "Call" in (tmp_path / "locust.html").read_text()


@pytest.mark.parametrize("what", ["slow", "endless"])
async def test_a_run_ends_while_calls_never_do(environment: dict[str, str], what: str) -> None:
    """LOC-02: soon after the time limit, calls and streams under way are given up and the results are written."""
    begin = time.monotonic()
    ledger, generators = await run(environment, what, 20)
    assert time.monotonic() - begin < SECONDS + AROUND_SECONDS
    assert not generators.ended_early
    assert sum(tally.calls for tally in ledger.services.values()) == 0
    assert generators.most_in_flight == 20
    assert "no call was made" in void_reasons(ledger, generators, load_budgets())


async def test_streams_go_on_on_two_workers(environment: dict[str, str], tmp_path: Path) -> None:
    """LOC-03: of many users who read streams none is idle beyond its deadline, and both workers' figures add up."""
    (tmp_path / "idle").mkdir()
    environment |= {IDLE: str(tmp_path / "idle")}
    ledger, generators = await run(environment, "streams", 100, workers=2, seconds=2 * STREAM_DEADLINE)
    idle = [each for file in (tmp_path / "idle").iterdir() for each in json.loads(file.read_text()).values()]
    assert len(idle) == 100
    assert max(idle) <= STREAM_DEADLINE
    assert not generators.ended_early
    assert generators.workers == 2
    assert generators.missing_workers == 0
    assert ledger.errors == {}
    assert {process.partition(" ")[0] for process in ledger.cpu} == {"generator", "locust"}
    assert len(ledger.cpu) == 4
    read = sum(tally.received for tally in ledger.services.values())
    streams = sum(tally.calls for tally in ledger.services.values())
    assert read == 10 * streams
    assert streams >= 100


async def test_a_generator_that_blocks_makes_the_run_void(environment: dict[str, str]) -> None:
    """LOC-05: messages that take long to build block the generator, and the run says so instead of blaming the server."""
    ledger, generators = await run(environment, "blocking", 8)
    assert any("late" in reason for reason in void_reasons(ledger, generators, load_budgets()))
    assert failures(ledger) == 0


@pytest.mark.parametrize(("what", "workers"), [("dying", 1), ("dying", 2), ("hanging", 1)])
async def test_a_generator_that_does_not_last_makes_the_run_void(
    environment: dict[str, str], what: str, workers: int
) -> None:
    """What a generator got before it died, or had to be killed, is good and says nothing about the rest of the run."""
    ledger, generators = await run(environment, what, 8, workers)
    assert failures(ledger) == 0
    assert generators.missing_workers == 0
    assert "a generator ended early" in void_reasons(ledger, generators, load_budgets())
