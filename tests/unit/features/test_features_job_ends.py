"""Every job comes to an end that is kept: when its caller goes away, when the database does, and when nobody runs it."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import FailedPreconditionError, UnavailableError
from services.features.builds import INTERRUPTED
from services.features.records import MaterializationRecord, State, TrainingSetRecord
from services.features.training_set import digest
from services.features.workers import Stop
from tests.unit.features.test_features_builds import AS_OF, MISSED, clients, define, held
from tests.unit.features.workbench import ASKER, Workbench, open_store, workbench

PATIENCE = 30
NOBODYS = TrainingSetRecord("set", "credit", (MISSED,), ("credit_risk",), (), (), 5)


async def create(bench: Workbench, kind: str) -> TrainingSetRecord | MaterializationRecord:
    if kind == "set":
        return await bench.builds.create_training_set("set", "credit", [MISSED], ASKER, 5)
    return await bench.builds.create_materialization("credit", AS_OF, ASKER)


async def ended(bench: Workbench, record: TrainingSetRecord | MaterializationRecord) -> Any:
    if isinstance(record, TrainingSetRecord):
        await bench.ended(record.training_set_id)
        return bench.store.training_set(record.training_set_id)
    await bench.written(record.materialization_id)
    return bench.store.materialization(record.materialization_id)


def away(method: Callable[..., Any], times: int, *, when: State | None = None) -> tuple[Callable[..., Any], list[int]]:
    """Return the method of a database that is away for the first calls, and their number so far in a list."""
    seen = [0]

    def call(*args: Any, **values: Any) -> Any:
        if when is None or values.get("state") is when:
            seen[0] += 1
            if seen[0] <= times:
                raise UnavailableError("the database does not answer")
        return method(*args, **values)

    return call, seen


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.features.workers.FIRST_PAUSE_SECONDS", 0.01)


@pytest.mark.parametrize(("kind", "add"), [("set", "add_training_set"), ("online", "add_materialization")])
async def test_a_caller_who_goes_away_leaves_no_job_that_nobody_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, add: str
) -> None:
    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        adding, go_on = threading.Event(), threading.Event()
        added: list[Any] = []
        really = getattr(bench.store, add)

        def slowly(record: Any) -> Any:
            added.append(record)
            adding.set()
            assert go_on.wait(PATIENCE)
            return really(record)

        monkeypatch.setattr(bench.store, add, slowly)
        calling = asyncio.create_task(create(bench, kind))
        assert await asyncio.to_thread(adding.wait, PATIENCE)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        async with bench.feed.watch(added[0].name) as changed:
            go_on.set()
            await asyncio.wait_for(changed.wait(), PATIENCE)
        assert (await ended(bench, added[0])).state is State.SUCCEEDED


@pytest.mark.parametrize(("kind", "update"), [("set", "update_training_set"), ("online", "update_materialization")])
async def test_success_is_kept_when_the_database_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, update: str
) -> None:
    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        flaky, seen = away(getattr(bench.store, update), 3, when=State.SUCCEEDED)
        monkeypatch.setattr(bench.store, update, flaky)
        assert (await ended(bench, await create(bench, kind))).state is State.SUCCEEDED
        assert seen == [4]
        if kind == "set":
            assert bench.rows("set").num_rows == bench.store.training_set("set").row_count


@pytest.mark.parametrize("kind", ["set", "online"])
async def test_a_failure_is_kept_when_the_database_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def fail(_: Stop) -> None:
        raise FailedPreconditionError("the snapshot is gone")

    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        bench.snapshots.before_read = fail
        flaky, seen = away(bench.store.fail, 3)
        monkeypatch.setattr(bench.store, "fail", flaky)
        done = await ended(bench, await create(bench, kind))
        assert (done.state, done.error) == (State.FAILED, "the snapshot is gone")
        assert seen == [4]


async def test_an_erasure_during_an_outage_holds_in_the_write_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = f"{4:032x}"
    async with workbench(tmp_path, held(clients(30))) as bench:
        define(bench)
        update, tried, is_back = bench.store.update_training_set, asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def flaky(training_set_id: str, **values: Any) -> None:
            if values.get("state") is State.SUCCEEDED and not is_back.is_set():
                loop.call_soon_threadsafe(tried.set)
                raise UnavailableError("the database does not answer")
            update(training_set_id, **values)

        monkeypatch.setattr(bench.store, "update_training_set", flaky)
        record = await create(bench, "set")
        await asyncio.wait_for(tried.wait(), PATIENCE)
        await bench.eraser.erase(subject)
        is_back.set()
        done, rows = await ended(bench, record), bench.rows("set")
        assert (done.state, done.row_count, done.digest) == (State.SUCCEEDED, rows.num_rows, digest(rows))
        assert rows.num_rows
        assert subject not in rows.column("entity").to_pylist()


async def test_an_outage_does_not_hold_up_the_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        tried = asyncio.Event()
        loop = asyncio.get_running_loop()

        def gone(_: str, **values: Any) -> None:
            loop.call_soon_threadsafe(tried.set)
            raise UnavailableError("the database does not answer")

        monkeypatch.setattr("services.features.workers.FIRST_PAUSE_SECONDS", 3600.0)
        monkeypatch.setattr("services.features.workers.LONGEST_PAUSE_SECONDS", 3600.0)
        monkeypatch.setattr(bench.store, "update_training_set", gone)
        await create(bench, "set")
        await asyncio.wait_for(tried.wait(), PATIENCE)
    database, store = open_store(tmp_path)
    try:
        kept = store.training_set("set")
        assert (kept.state, kept.error) == (State.FAILED, INTERRUPTED)
    finally:
        database.close()


async def test_what_is_running_and_nobodys_is_failed_and_what_is_somebodys_is_not(tmp_path: Path) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def pause(_: Stop) -> None:
        reading.set()
        assert go_on.wait(PATIENCE)

    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        # As a commit leaves them whose answer was lost.
        bench.store.add_training_set(dataclasses.replace(NOBODYS, training_set_id="lost"))
        bench.store.add_materialization(MaterializationRecord("lost", "credit", AS_OF))
        bench.snapshots.before_read = pause
        record = await create(bench, "set")
        assert await asyncio.to_thread(reading.wait, PATIENCE)
        assert await bench.builds.fail_abandoned() == 2
        assert await bench.builds.fail_abandoned() == 0
        lost = (bench.store.training_set("lost"), bench.store.materialization("lost"))
        assert [(each.state, each.error) for each in lost] == [(State.FAILED, INTERRUPTED)] * 2
        go_on.set()
        assert (await ended(bench, record)).state is State.SUCCEEDED


async def test_what_was_begun_anew_is_not_failed_for_its_forerunner(tmp_path: Path) -> None:
    async with workbench(tmp_path, held(clients(5))) as bench:
        bench.store.add_training_set(NOBODYS)
        assert bench.store.fail(NOBODYS, "broke")
        again = dataclasses.replace(NOBODYS, create_us=6)
        assert bench.store.add_training_set(again) is again
        assert not bench.store.fail(NOBODYS, "broke")
        assert bench.store.training_set("set").state is State.RUNNING
