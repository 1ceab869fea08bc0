"""Jobs from snapshot to store: the same bytes online and offline, faults told, erasures kept."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hedgerow.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from services.features.builds import INTERRUPTED
from services.features.online import online_block
from services.features.point_in_time import Status
from services.features.records import State
from services.features.training_set import Cutoff, digest
from services.features.view import Feature, FeatureService, define_service
from services.features.workers import Stop
from tests.unit.features.samples import STATEMENTS, row, table, us, view
from tests.unit.features.workbench import ASKER, HeldSnapshots, Workbench, open_store, workbench

NAME = "datasets/statements"
AS_OF = us("2005-10-01")
MISSED = Cutoff(us("2005-08-31"), NAME, "bool_or(pay_delay >= 1)", 1)
SERVICE = define_service(
    "credit",
    [
        view(
            Feature("late", "count(*) filter (where pay_delay >= 1)", 3),
            Feature("mean", "avg(amount)", 6),
            Feature("trend", "regr_slope(amount, epoch(event_time))"),
        ),
        view("max(amount)", view_id="peak"),
    ],
)


def clients(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    return [
        row(f"{client:032x}", f"2005-{month:02d}-28", pay_delay=int(random.integers(-1, 3)), amount=random.normal())
        for client in range(count)
        for month in range(4, 10)
        if client % 7 or month < 9
    ]


def held(rows: list[dict[str, Any]] | pa.Table) -> HeldSnapshots:
    return HeldSnapshots({NAME: STATEMENTS}, {NAME: rows if isinstance(rows, pa.Table) else table(rows)})


def define(bench: Workbench, service: FeatureService = SERVICE) -> None:
    for each in service.views:
        bench.store.add_view(each, 1)
    bench.store.add_service(service, 2)


async def test_online_and_offline_are_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.features.computation.CHUNK_ROWS", 17)
    async with workbench(tmp_path, held(clients(60))) as bench:
        define(bench)
        record = await bench.builds.create_materialization("credit", AS_OF, ASKER)
        await bench.written(record.materialization_id)
        done = bench.store.materialization(record.materialization_id)
        assert (done.state, done.entity_count, done.rejected_count) == (State.SUCCEEDED, 60, 0)
        asked = [f"{client:032x}" for client in (59, 3, 99, 0, 3)]
        online = online_block(bench.online, SERVICE, asked, AS_OF + 10**12)
        offline = await bench.builds.offline(SERVICE, asked, AS_OF, ASKER)
        assert online.values.tobytes() == offline.values.tobytes()
        assert list(online.statuses) == list(offline.statuses) == [1, 1, 2, 1, 1]
        assert not np.isnan(online.values[0]).any()


async def test_the_training_set_has_the_same_bytes_as_the_offline_answer(tmp_path: Path) -> None:
    async with workbench(tmp_path, held(clients(20))) as bench:
        define(bench)
        record = await bench.builds.create_training_set("set", "credit", [MISSED], ASKER, 5)
        assert record.state is State.RUNNING
        assert record.sources == (f"{NAME}@1",)
        assert record.purposes == ("credit_risk",)
        await bench.ended("set")
        done = bench.store.training_set("set")
        rows = bench.rows("set")
        assert (done.state, done.error, done.row_count) == (State.SUCCEEDED, "", rows.num_rows)
        assert done.digest == digest(rows)
        entities = rows.column("entity").to_pylist()
        offline = await bench.builds.offline(SERVICE, entities, MISSED.as_of_us, ASKER)
        stored = np.column_stack([rows.column(name).to_numpy() for name in SERVICE.feature_names])
        assert stored.tobytes() == offline.values.tobytes()


async def test_snapshots_name_only_the_columns_needed_and_the_purpose(tmp_path: Path) -> None:
    async with workbench(tmp_path, held(clients(2))) as bench:
        define(bench)
        await bench.builds.offline(SERVICE, ["x"], AS_OF, ASKER)
        assert bench.snapshots.asked == [
            (NAME, ("client_id", "statement_time", "known_time", "pay_delay", "amount"), "credit_risk")
        ]


async def test_a_back_filled_row_changes_neither_set_nor_digest(tmp_path: Path) -> None:  # FS-06
    rows = clients(20)
    async with workbench(tmp_path, held(rows)) as bench:
        define(bench)
        await bench.builds.create_training_set("before", "credit", [MISSED], ASKER, 5)
        await bench.ended("before")
        planted = row(rows[0]["client_id"], "2005-08-15", "2005-11-01", pay_delay=2, amount=1e9)
        bench.snapshots.tables[NAME] = table([planted, *rows])
        bench.snapshots.version = 2
        await bench.builds.create_training_set("after", "credit", [MISSED], ASKER, 6)
        await bench.ended("after")
        before, after = bench.store.training_set("before"), bench.store.training_set("after")
        assert (before.digest, before.row_count) == (after.digest, after.row_count)
        assert after.sources == (f"{NAME}@2",)


async def test_rows_with_null_or_empty_keys_are_rejected_and_the_rest_written(tmp_path: Path) -> None:  # FS-09
    rows = [row(f"{client:032x}", "2005-09-01", amount=1.0, pay_delay=0) for client in range(997)]
    rows += [row(None, "2005-09-01", amount=1.0), row("", "2005-09-01", amount=1.0)]
    source = table(rows)
    # What pandas calls NaN in a column of text is a null by the time it is Arrow.
    nan_key = pa.array([float("nan")], from_pandas=True).cast(pa.string())
    last = table([row("x", "2005-09-01", amount=1.0)])
    source = pa.concat_tables([source, last.set_column(0, "client_id", nan_key)])
    async with workbench(tmp_path, held(source)) as bench:
        define(bench)
        record = await bench.builds.create_materialization("credit", AS_OF, ASKER)
        await bench.written(record.materialization_id)
        done = bench.store.materialization(record.materialization_id)
        assert (done.state, done.entity_count, done.rejected_count) == (State.SUCCEEDED, 997, 3)
        assert bench.online.count() == 2 * 997


async def test_an_expired_value_is_withheld_online_as_offline(tmp_path: Path) -> None:  # FS-02
    hour = 3600 * 10**6
    service = define_service("short", [view("max(amount)", ttl_seconds=3600), view("min(amount)", view_id="long")])
    async with workbench(tmp_path, held([row("a", "2005-09-01T10:00", amount=4.0)])) as bench:
        define(bench, service)
        record = await bench.builds.create_materialization("short", us("2005-09-01T10:30"), ASKER)
        await bench.written(record.materialization_id)
        for now, status, first in (
            (us("2005-09-01T10:00") + hour, Status.PRESENT, 4.0),
            (us("2005-09-01T10:00") + hour + 1, Status.OUTSIDE_MAX_AGE, np.nan),
        ):
            online = online_block(bench.online, service, ["a"], now)
            offline = await bench.builds.offline(service, ["a"], now, ASKER)
            np.testing.assert_array_equal(online.values, [[first, 4.0]])
            assert online.values.tobytes() == offline.values.tobytes()
            assert list(online.statuses) == list(offline.statuses) == [status]


async def test_the_same_definition_returns_what_is_there_and_another_is_refused(tmp_path: Path) -> None:
    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        await bench.builds.create_training_set("set", "credit", [MISSED], ASKER, 5)
        await bench.ended("set")
        again = await bench.builds.create_training_set("set", "credit", [MISSED], ASKER, 99)
        assert again == bench.store.training_set("set")
        assert again.create_us == 5
        with pytest.raises(AlreadyExistsError):
            await bench.builds.create_training_set(
                "set", "credit", [dataclasses.replace(MISSED, horizon_months=2)], ASKER, 5
            )


async def test_what_cannot_be_built_is_refused_at_once(tmp_path: Path) -> None:
    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        with pytest.raises(NotFoundError):
            await bench.builds.create_training_set("set", "nothing", [MISSED], ASKER, 5)
        with pytest.raises(NotFoundError):
            elsewhere = dataclasses.replace(MISSED, dataset="datasets/nothing")
            await bench.builds.create_training_set("set", "credit", [elsewhere], ASKER, 5)
        with pytest.raises(InvalidArgumentError) as caught:
            number = dataclasses.replace(MISSED, expression="max(pay_delay)")
            await bench.builds.create_training_set("set", "credit", [number], ASKER, 5)
        assert list(caught.value.fields) == ["training_set.cutoffs[0].expression"]
        with pytest.raises(NotFoundError):
            bench.store.training_set("set")


async def test_a_job_that_fails_says_why_and_can_be_asked_for_again(tmp_path: Path) -> None:
    def fail(_: Stop) -> None:
        raise FailedPreconditionError("the snapshot is gone")

    def crash(_: Stop) -> None:
        raise RuntimeError("secret detail")

    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        for fault, said in ((fail, "the snapshot is gone"), (crash, "the features service failed; its log names it")):
            bench.snapshots.before_read = fault
            await bench.builds.create_training_set("set", "credit", [MISSED], ASKER, 5)
            await bench.ended("set")
            done = bench.store.training_set("set")
            assert done.state is State.FAILED
            assert done.error.startswith(said[:27])
            assert "secret" not in done.error
        assert bench.files.ids() == []
        bench.snapshots.before_read = lambda _: None
        await bench.builds.create_training_set("set", "credit", [MISSED], ASKER, 5)
        await bench.ended("set")
        assert bench.store.training_set("set").state is State.SUCCEEDED


async def test_no_outcome_for_anyone_is_a_failure_in_words(tmp_path: Path) -> None:
    async with workbench(tmp_path, held(clients(5))) as bench:
        define(bench)
        future = dataclasses.replace(MISSED, as_of_us=us("2030-01-01"))
        await bench.builds.create_training_set("set", "credit", [future], ASKER, 5)
        await bench.ended("set")
        assert "no entity has an outcome" in bench.store.training_set("set").error


async def test_jobs_are_bounded_and_shutdown_stops_them(tmp_path: Path) -> None:
    started = threading.Event()

    def linger(stop: Stop) -> None:
        started.set()
        while True:
            stop()
            threading.Event().wait(0.005)

    async with workbench(tmp_path, held(clients(5)), max_jobs=2) as bench:
        define(bench)
        bench.snapshots.before_read = linger
        first = await bench.builds.create_materialization("credit", AS_OF, ASKER)
        await bench.builds.create_materialization("credit", AS_OF, ASKER)
        with pytest.raises(ResourceExhaustedError) as caught:
            await bench.builds.create_materialization("credit", AS_OF, ASKER)
        assert caught.value.retry_after
        await asyncio.to_thread(started.wait, 20)
    database, store = open_store(tmp_path)
    try:
        stopped = store.materialization(first.materialization_id)
        assert (stopped.state, stopped.error) == (State.FAILED, INTERRUPTED)
        assert store.fail_interrupted("stopped; ask again") == 0
    finally:
        database.close()


async def test_an_erased_subject_is_gone_from_everything(tmp_path: Path) -> None:
    async with workbench(tmp_path, held(clients(30))) as bench:
        define(bench)
        for name in ("one", "two"):
            cutoff = dataclasses.replace(MISSED, horizon_months=1 if name == "one" else 2)
            await bench.builds.create_training_set(name, "credit", [cutoff], ASKER, 5)
            await bench.ended(name)
        record = await bench.builds.create_materialization("credit", AS_OF, ASKER)
        await bench.written(record.materialization_id)
        subject = f"{4:032x}"
        before = bench.store.training_set("one")
        wrapped = bench.files.wrapped_key("one")
        online, sets = await bench.eraser.erase(subject)
        assert (online.store, online.rows_erased, online.remaining_hits) == ("onlineStore", 2, 0)
        assert (sets.store, sets.rows_erased, sets.remaining_hits) == ("trainingSets", 2, 0)
        assert (sets.objects_searched, sets.objects_rewritten) == (2, 2)
        assert subject not in bench.rows("one").column("entity").to_pylist()
        after = bench.store.training_set("one")
        assert after.row_count == before.row_count - 1
        assert after.digest == digest(bench.rows("one")) != before.digest
        assert bench.files.wrapped_key("one") != wrapped
        assert online_block(bench.online, SERVICE, [subject], AS_OF).statuses[0] == Status.NOT_FOUND
        online, sets = await bench.eraser.erase(subject)
        assert online.rows_erased == sets.rows_erased == sets.objects_rewritten == 0
        assert sets.objects_searched == 2


async def test_a_running_job_does_not_bring_an_erased_subject_back(tmp_path: Path) -> None:
    reading, go_on = threading.Event(), threading.Event()

    def pause(_: Stop) -> None:
        reading.set()
        assert go_on.wait(20)

    async with workbench(tmp_path, held(clients(10))) as bench:
        define(bench)
        bench.snapshots.before_read = pause
        await bench.builds.create_training_set("set", "credit", [MISSED], ASKER, 5)
        record = await bench.builds.create_materialization("credit", AS_OF, ASKER)
        assert await asyncio.to_thread(reading.wait, 20)
        subject = f"{4:032x}"
        await bench.eraser.erase(subject)
        go_on.set()
        await bench.ended("set")
        await bench.written(record.materialization_id)
        rows = bench.rows("set").column("entity").to_pylist()
        assert rows
        assert subject not in rows
        statuses = online_block(bench.online, SERVICE, [subject, f"{5:032x}"], AS_OF).statuses
        assert list(statuses) == [Status.NOT_FOUND, Status.PRESENT]
        # With no job left that could hold old rows, new data about the same key counts again.
        again = await bench.builds.create_materialization("credit", AS_OF, ASKER)
        await bench.written(again.materialization_id)
        assert online_block(bench.online, SERVICE, [subject], AS_OF).statuses[0] == Status.PRESENT


async def test_erasures_at_once_do_not_bring_each_other_back(tmp_path: Path) -> None:
    async with workbench(tmp_path, held(clients(30))) as bench:
        define(bench)
        await bench.builds.create_training_set("set", "credit", [MISSED], ASKER, 5)
        await bench.ended("set")
        subjects = [f"{client:032x}" for client in (1, 2, 3, 4)]
        await asyncio.gather(*(bench.eraser.erase(subject) for subject in subjects))
        assert not set(subjects) & set(bench.rows("set").column("entity").to_pylist())
