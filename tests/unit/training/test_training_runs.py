"""Every run comes to an end that is kept: when its caller goes away, when the database does, and when the service stops."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import NotFoundError, ResourceExhaustedError, UnavailableError
from libs.sql import open_database
from services.training.launch import Limits
from services.training.migrations import MIGRATIONS
from services.training.records import RunRecord, RunState
from services.training.runs import Reads, TrainingRuns
from services.training.store import TrainingStore
from tests.unit.training.rows import run, version

PATIENCE = 30
READS: Reads = None  # type: ignore[assignment]
SAID = "the rows are gone"


class Bench:
    """Runs on a real store, whose work the test does."""

    def __init__(self, store: TrainingStore, patch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.patch = patch
        self.working: asyncio.Task[None] | None = None
        self.runs = TrainingRuns(
            store,
            features=None,  # type: ignore[arg-type]
            registry=None,  # type: ignore[arg-type]
            limits=Limits(),
            waiting=1,
            now_us=lambda: 7,
        )

    def work_is(self, work: Callable[[RunRecord], Awaitable[str]]) -> None:
        """Have every run do this."""
        self.patch.setattr(self.runs, "_run", lambda record, _: work(record))

    def away(self, method: str, times: int) -> list[int]:
        """Have the database be away for the first calls of a method; return how many came so far in a list."""
        really, seen = getattr(self.store, method), [0]

        def flaky(*args: Any, **values: Any) -> Any:
            seen[0] += 1
            if seen[0] <= times:
                raise UnavailableError("the database does not answer")
            return really(*args, **values)

        self.patch.setattr(self.store, method, flaky)
        return seen

    async def fill(self) -> None:
        """Have one run at work and one waiting, all that may."""
        self.work_is(wait_forever)
        for name in ("r1", "r2"):
            await self.runs.create(run(name), READS)
            if name == "r1":
                async with asyncio.timeout(PATIENCE):
                    while "r1" not in self.runs._at_work:
                        await asyncio.sleep(0)

    async def ended(self, run_id: str) -> RunRecord:
        """Watch a run to its end."""
        async with asyncio.timeout(PATIENCE):
            return [record async for record in self.runs.watch(run_id)][-1]


@pytest.fixture
async def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr("services.training.runs.FIRST_PAUSE_SECONDS", 0.01)
    database = open_database(tmp_path / "training.db", b"k" * 32, MIGRATIONS)
    made = Bench(TrainingStore(database), monkeypatch)
    made.work_is(fail)
    working = made.working = asyncio.create_task(made.runs.work())
    yield made
    await made.runs.close()
    working.cancel()
    with suppress(asyncio.CancelledError):
        await working
    database.close()


async def fail(_: RunRecord) -> str:
    raise NotFoundError(SAID)


async def wait_forever(_: RunRecord) -> str:
    await asyncio.Event().wait()
    return ""


async def test_a_caller_who_goes_away_leaves_no_run_that_nobody_carries_out(bench: Bench) -> None:
    adding, go_on = threading.Event(), threading.Event()
    really = bench.store.add_run

    def slowly(record: RunRecord) -> RunRecord:
        adding.set()
        assert go_on.wait(PATIENCE)
        return really(record)

    bench.patch.setattr(bench.store, "add_run", slowly)
    calling = asyncio.create_task(bench.runs.create(run("r1"), READS))
    assert await asyncio.to_thread(adding.wait, PATIENCE)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    (keeping,) = bench.runs._beginnings
    go_on.set()
    await asyncio.wait_for(keeping, PATIENCE)
    assert (await bench.runs.create(run("r2", request_id="r1"), READS)).run_id == "r1"
    assert (await bench.ended("r1")).error == SAID


async def test_a_run_that_was_kept_by_a_write_whose_answer_was_lost_is_carried_out_when_asked_for_again(
    bench: Bench,
) -> None:
    really = bench.store.add_run

    def lose(record: RunRecord) -> RunRecord:
        really(record)
        raise UnavailableError("the database does not answer")

    with bench.patch.context() as patch:
        patch.setattr(bench.store, "add_run", lose)
        with pytest.raises(UnavailableError):
            await bench.runs.create(run("r1"), READS)
    started: list[str] = []

    async def count(record: RunRecord) -> str:
        started.append(record.run_id)
        return await fail(record)

    bench.work_is(count)
    for name in ("r2", "r3"):
        assert (await bench.runs.create(run(name, request_id="r1"), READS)).run_id == "r1"
    assert (await bench.ended("r1")).error == SAID
    assert (await bench.runs.create(run("r4", request_id="r1"), READS)).state is RunState.FAILED
    assert started == ["r1"]
    assert not bench.runs._known


async def test_what_was_refused_is_forgotten_when_the_database_is_back(bench: Bench) -> None:
    await bench.fill()
    seen = bench.away("discard_run", 2)
    with pytest.raises(ResourceExhaustedError):
        await bench.runs.create(run("r3"), READS)
    assert seen == [3]
    with pytest.raises(NotFoundError):
        bench.store.run("r3")


@pytest.mark.parametrize("is_late", [False, True])
async def test_what_is_about_to_be_forgotten_is_not_taken_up_again(bench: Bench, is_late: bool) -> None:
    """Not even by a request that saw it kept and hears of that when it is no more."""
    await bench.fill()
    adding, add, discarding, discard = (threading.Event() for _ in range(4))
    really_add, really_discard = bench.store.add_run, bench.store.discard_run

    def slowly_discard(run_id: str) -> None:
        discarding.set()
        assert discard.wait(PATIENCE)
        really_discard(run_id)

    def slowly_add(record: RunRecord) -> RunRecord:
        kept = really_add(record)
        adding.set()
        assert add.wait(PATIENCE)
        return kept

    bench.patch.setattr(bench.store, "discard_run", slowly_discard)
    refused = asyncio.create_task(bench.runs.create(run("r3"), READS))
    assert await asyncio.to_thread(discarding.wait, PATIENCE)
    bench.patch.setattr(bench.store, "add_run", slowly_add)
    await bench.runs.cancel("r1")  # so that there is room
    again = asyncio.create_task(bench.runs.create(run("r4", request_id="r3"), READS))
    assert await asyncio.to_thread(adding.wait, PATIENCE)
    steps = [(add, again), (discard, refused)]
    for go_on, call in reversed(steps) if is_late else steps:
        go_on.set()
        with pytest.raises(ResourceExhaustedError):
            await asyncio.wait_for(call, PATIENCE)
    assert (await bench.runs.create(run("r5", request_id="r3"), READS)).run_id == "r5"
    assert bench.runs._known == {"r2", "r5"}


async def test_a_run_that_was_cancelled_before_it_was_forgotten_stays(bench: Bench) -> None:
    await asyncio.to_thread(bench.store.add_run, run("r1"))
    await bench.runs.cancel("r1")
    bench.store.discard_run("r1")
    assert bench.store.run("r1").state is RunState.CANCELLED


async def test_a_run_that_is_kept_after_the_stop_began_does_not_start(bench: Bench) -> None:
    adding, go_on, started = threading.Event(), threading.Event(), []
    really = bench.store.add_run

    def slowly(record: RunRecord) -> RunRecord:
        adding.set()
        assert go_on.wait(PATIENCE)
        return really(record)

    async def count(record: RunRecord) -> str:
        started.append(record.run_id)
        return await fail(record)

    bench.work_is(count)
    bench.patch.setattr(bench.store, "add_run", slowly)
    calling = asyncio.create_task(bench.runs.create(run("r1"), READS))
    assert await asyncio.to_thread(adding.wait, PATIENCE)
    closing = asyncio.create_task(bench.runs.close())
    await asyncio.sleep(0)
    go_on.set()
    assert bench.working is not None
    await asyncio.wait_for(asyncio.gather(calling, closing, bench.working), PATIENCE)
    assert (started, bench.store.run("r1").state) == ([], RunState.QUEUED)
    assert bench.store.fail_interrupted("interrupted", 9) == 1


async def test_a_failure_is_kept_when_the_database_is_back(bench: Bench) -> None:
    seen = bench.away("set_state", 3)
    await bench.runs.create(run("r1"), READS)
    done = await bench.ended("r1")
    assert (done.state, done.error, done.end_us) == (RunState.FAILED, SAID, 7)
    assert seen == [4]


async def test_a_cancellation_is_kept_when_the_database_is_back(bench: Bench) -> None:
    bench.work_is(wait_forever)
    for name in ("r1", "r2"):
        await bench.runs.create(run(name), READS)
    # One at work or about to be, the other waiting; another run finds the worker free.
    for name in ("r2", "r1"):
        bench.away("set_state", 2)
        assert (await bench.runs.cancel(name)).state is RunState.CANCELLED
    bench.work_is(fail)
    await bench.runs.create(run("r3"), READS)
    assert (await bench.ended("r3")).state is RunState.FAILED


async def test_a_version_that_is_kept_is_a_run_that_succeeded_whatever_its_writer_was_told(bench: Bench) -> None:
    record = dataclasses.replace(version(1), training_run="trainingRuns/r1")
    bench.store.next_number("credit")

    async def register(_: RunRecord) -> str:
        await asyncio.to_thread(bench.store.add_version, record)
        raise UnavailableError("the database does not answer")

    bench.work_is(register)
    await bench.runs.create(run("r1"), READS)
    done = await bench.ended("r1")
    assert (done.state, done.model_version, done.error) == (RunState.SUCCEEDED, record.name, "")
    assert done.end_us == record.create_us


async def test_an_outage_does_not_hold_up_the_stop(bench: Bench) -> None:
    bench.patch.setattr("services.training.runs.FIRST_PAUSE_SECONDS", 3600.0)
    bench.patch.setattr("services.training.runs.LONGEST_PAUSE_SECONDS", 3600.0)
    seen = bench.away("set_state", 1_000_000)
    await bench.runs.create(run("r1"), READS)
    async with asyncio.timeout(PATIENCE):
        while not seen[0]:
            await asyncio.sleep(0.01)
        await bench.runs.close()
    assert not bench.store.run("r1").state.ended
    assert bench.store.fail_interrupted("interrupted", 9) == 1
