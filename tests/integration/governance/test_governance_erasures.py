"""Erasure requests on a real database: every store, failures, crashes, retries, receipts."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hedgerow.errors import (
    AlreadyExistsError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from libs.sql import Database
from services.governance.erasure import ErasureRequest, State
from services.governance.erasure_runner import ErasureLimits, ErasureRunner
from services.governance.trail import AuditTrail
from tests.support.audit_trail import event, seal
from tests.support.governance import SIGNING_KEY, Eraser, database, make_runner, make_trail, pseudonym

REQUEST_ID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
OTHER_ID = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"


class Parts:
    """One process's worth of erasure, and a way to begin the next."""

    def __init__(self, opened: Database, trail: AuditTrail, logs: Path) -> None:
        self.opened = opened
        self.trail = trail
        self.logs = logs
        self.lake = Eraser("ingestion", "lake")
        self.online = Eraser("features", "onlineStore")
        self.runner = self.next_process()

    def next_process(self, **options: object) -> ErasureRunner:
        self.runner = make_runner(self.opened, self.trail, [self.lake, self.online], self.logs, **options)
        return self.runner

    async def end(self, request: ErasureRequest) -> ErasureRequest:
        async with asyncio.timeout(20):
            return [state async for state in self.runner.watch(request.id)][-1]


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / "ingestion.log").write_text('{"event":"listening","port":7443}\n')
    with database(tmp_path) as opened:
        trail = make_trail(opened, tmp_path)
        await trail.start()
        made = Parts(opened, trail, logs)
        yield made
        await made.runner.close()


async def test_a_subject_is_erased_everywhere_and_the_receipt_is_signed(parts: Parts) -> None:
    await parts.trail.put("ingestion", *seal([event(1)])[0])
    created = await parts.runner.create("credit", "client-7", REQUEST_ID)
    assert created.state is State.RUNNING
    ended = await parts.end(created)
    assert ended.state is State.SUCCEEDED
    assert [(item.service, item.store, item.objects_searched, item.rows_erased) for item in ended.stores] == [
        ("ingestion", "lake", 3, 7),
        ("features", "onlineStore", 3, 7),
        ("governance", "auditTrail", 1, 0),
        ("governance", "logs", 1, 0),
    ]
    SIGNING_KEY.public_key().verify(ended.signature, ended.receipt)
    assert json.loads(ended.receipt)["subject_hash"] == await pseudonym("credit", "client-7")
    assert [asked.subject_hash for asked in parts.lake.asked] == [await pseudonym("credit", "client-7")]


async def test_the_identifier_is_nowhere_on_disk(parts: Parts, tmp_path: Path) -> None:
    await parts.end(await parts.runner.create("credit", "client-unmistakable-7", REQUEST_ID))
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"client-unmistakable-7" not in path.read_bytes()


async def test_every_change_is_seen_by_a_watcher(parts: Parts) -> None:
    parts.lake.go_on.clear()
    created = await parts.runner.create("credit", "client-7", REQUEST_ID)
    watched = parts.runner.watch(created.id)
    assert (await anext(watched)).stores == ()
    parts.lake.go_on.set()
    states = [state async for state in watched]
    assert len(states[-1].stores) == 4
    with pytest.raises(NotFoundError):
        await anext(parts.runner.watch("absent"))


async def test_a_repetition_returns_the_same_request(parts: Parts) -> None:
    created = await parts.runner.create("credit", "client-7", REQUEST_ID)
    assert (await parts.runner.create("credit", "client-7", REQUEST_ID)).id == created.id
    ended = await parts.end(created)
    assert await parts.runner.create("credit", "client-7", REQUEST_ID) == ended
    assert len(parts.lake.asked) == 1
    with pytest.raises(AlreadyExistsError):
        await parts.runner.create("credit", "client-8", REQUEST_ID)
    with pytest.raises(AlreadyExistsError):
        await parts.runner.create("marketing", "client-7", REQUEST_ID)


async def test_a_store_that_is_away_for_a_moment_is_asked_again(parts: Parts) -> None:
    parts.lake.faults = [UnavailableError("away"), UnavailableError("away")]
    ended = await parts.end(await parts.runner.create("credit", "client-7", REQUEST_ID))
    assert (ended.state, len(parts.lake.asked)) == (State.SUCCEEDED, 3)


async def test_a_failing_store_is_named_and_the_request_can_be_taken_up_again(parts: Parts) -> None:
    parts.online.faults = [UnavailableError("the online store is away") for _ in range(5)]
    ended = await parts.end(await parts.runner.create("credit", "client-7", REQUEST_ID))
    assert ended.state is State.FAILED
    assert {item.store: item.error for item in ended.stores if item.error} == {
        "all": "DEPENDENCY_UNAVAILABLE: the online store is away"
    }
    SIGNING_KEY.public_key().verify(ended.signature, ended.receipt)
    again = await parts.runner.create("credit", "client-7", REQUEST_ID)
    assert (again.id, again.state, again.receipt) == (ended.id, State.RUNNING, b"")
    assert (await parts.end(again)).state is State.SUCCEEDED


async def test_an_unexpected_failure_ends_the_request_without_its_text(parts: Parts) -> None:
    parts.lake.faults = [RuntimeError("client-7 broke it")]
    ended = await parts.end(await parts.runner.create("credit", "client-7", REQUEST_ID))
    assert ended.stores[0].error == "INTERNAL: governance failed; its log says more"
    assert b"client-7" not in ended.receipt


async def test_hits_in_logs_or_trail_fail_the_request(parts: Parts) -> None:
    (parts.logs / "old.log").write_text(f"subject client-7\nsubject {await pseudonym('credit', 'client-7')}\n")
    await parts.trail.put("ingestion", *seal([event(1, resources=("clients/client-7",))])[0])
    ended = await parts.end(await parts.runner.create("credit", "client-7", REQUEST_ID))
    assert ended.state is State.FAILED
    assert {item.store: item.remaining_hits for item in ended.stores if item.remaining_hits} == {
        "auditTrail": 1,
        "logs": 2,
    }


async def test_without_a_log_folder_no_erasure_succeeds(parts: Parts) -> None:
    runner = make_runner(parts.opened, parts.trail, [parts.lake], None)
    parts.runner = runner
    ended = await parts.end(await runner.create("credit", "client-7", REQUEST_ID))
    assert (ended.state, ended.stores[-1].error) == (
        State.FAILED,
        "no log folder is configured; set HEDGEROW_LOG_DIR",
    )


async def test_a_crash_resumes_from_the_pseudonym_and_says_what_it_forgot(parts: Parts) -> None:
    parts.lake.go_on.clear()
    created = await parts.runner.create("credit", "client-7", REQUEST_ID)
    while not parts.lake.asked:
        await asyncio.sleep(0.001)
    await parts.runner.close()
    parts.lake.go_on.set()
    await parts.next_process().resume()
    ended = await parts.end(created)
    assert ended.state is State.FAILED
    assert [item.store for item in ended.stores if item.error] == ["auditTrail", "logs"]
    assert len(parts.lake.asked) == 2
    again = await parts.runner.create("credit", "client-7", REQUEST_ID)
    assert (await parts.end(again)).state is State.SUCCEEDED


async def test_the_receipt_waits_for_its_signature(parts: Parts) -> None:
    faults = [UnavailableError("the secrets service is away") for _ in range(3)]

    async def sign(payload: bytes) -> tuple[bytes, int]:
        if faults:
            raise faults.pop()
        return SIGNING_KEY.sign(payload), 1

    ended = await parts.end(await parts.next_process(sign=sign).create("credit", "client-7", REQUEST_ID))
    assert (ended.state, faults) == (State.SUCCEEDED, [])


async def test_waiting_requests_are_bounded(parts: Parts) -> None:
    parts.lake.go_on.clear()
    runner = parts.next_process(limits=ErasureLimits(at_once=1, waiting=0, pause_seconds=0.001))
    created = await runner.create("credit", "client-7", REQUEST_ID)
    with pytest.raises(ResourceExhaustedError):
        await runner.create("credit", "client-8", OTHER_ID)
    parts.lake.go_on.set()
    await parts.end(created)


async def test_requests_are_listed_newest_first(parts: Parts) -> None:
    first = await parts.end(await parts.runner.create("credit", "client-7", REQUEST_ID))
    second = await parts.end(await parts.runner.create("credit", "client-8", OTHER_ID))
    assert await parts.runner.page(None, 1) == [second]
    assert await parts.runner.page((second.create_ns, second.id), 5) == [first]
    assert await parts.runner.get(first.id) == first
