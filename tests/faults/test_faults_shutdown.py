"""How services end when told to (GRPC-02), with no call, a call or a stream open, and what a killed supervisor leaves."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pytest

from hedgerow.errors import CallCancelledError, UnavailableError
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.secrets.v1 import secrets_pb2
from suite.config import SERVICES
from suite.guard import marked
from suite.ports import taken
from suite.process import start_ticks
from tests.faults.load import CONTRACT, PATIENCE_SECONDS
from tests.support.suite import RunningSuite, stop

GRACE_SECONDS = 3.0
# Beside the grace: noticing, closing the trail, and a busy machine.
SLACK_SECONDS = 4.0
SECRETS = secrets_pb2.DESCRIPTOR.services_by_name["SecretsService"]
INGESTION = ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"]
NUMBERS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


@dataclass
class Held:
    """A suite and the supervisor that runs it now."""

    suite: RunningSuite
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    """A suite of its own, with a short grace."""
    folder = tmp_path_factory.mktemp("shutdown")
    file = folder / "suite.toml"
    file.write_text(f'[environment]\nHEDGEROW_DRAIN_GRACE_SECONDS = "{GRACE_SECONDS:g}"\n')
    suite = RunningSuite(folder / "suite", [], file)
    running = Held(suite, suite.start_bound())
    yield running
    stop(running.process)


@pytest.fixture
def suite(held: Held) -> RunningSuite:
    """What the tests call."""
    return held.suite


class Ending:
    """One service on its way out."""

    def __init__(self, suite: RunningSuite, service: str, number: signal.Signals) -> None:
        self._suite, self._service = suite, service
        self._before = suite.restarts()[service]
        self._began = time.monotonic()
        os.kill(suite.state().services[service].pid, number)

    async def expect(self, longest: float) -> None:
        """Expect exit code 0 within a time, and the service back."""
        while self._suite.restarts()[self._service] == self._before:
            assert time.monotonic() - self._began < longest, f"{self._service} does not end"
            await asyncio.sleep(0.02)
        assert self._suite.state().services[self._service].last_exit == "ended with exit code 0"
        while self._suite.state().services[self._service].phase != "serving":
            assert time.monotonic() - self._began < longest + 30, f"{self._service} is not back"
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(("service", "number"), list(zip(SERVICES, itertools.cycle(NUMBERS), strict=False)))
async def test_a_service_that_nobody_calls_ends_at_once(
    suite: RunningSuite, service: str, number: signal.Signals
) -> None:
    await Ending(suite, service, number).expect(SLACK_SECONDS)


@pytest.mark.parametrize("number", NUMBERS)
async def test_a_unary_call_in_progress_is_answered(
    suite: RunningSuite, tmp_path: Path, number: signal.Signals
) -> None:
    identity = (await suite.workload("features")).load()
    assert identity is not None
    openbao = suite.state().services["openbao"].pid
    request = secrets_pb2.CreateDataKeyRequest(key="keys/features-shutdown")
    async with suite.client(tmp_path, identity, "secrets", SECRETS) as client:
        await patiently(lambda: client.call("CreateDataKey", request))
        # With the secret server halted the call cannot end before the signal.
        os.kill(openbao, signal.SIGSTOP)
        try:
            call = asyncio.create_task(client.call("CreateDataKey", request))
            await asyncio.sleep(0.5)
            ending = Ending(suite, "secrets", number)
            await asyncio.sleep(1.0)
            assert not call.done()
        finally:
            os.kill(openbao, signal.SIGCONT)
        assert len((await call).plaintext) == 32
    await ending.expect(GRACE_SECONDS + SLACK_SECONDS)


async def test_a_watch_ends_with_not_serving(suite: RunningSuite, tmp_path: Path) -> None:
    identity = (await suite.person("ana")).load()
    assert identity is not None
    async with suite.client(tmp_path, identity, "secrets", SECRETS) as client:
        stream = client.stream("WatchTrust", secrets_pb2.WatchTrustRequest(), timeout=60.0)
        assert (await anext(stream)).roots_pem
        ending = Ending(suite, "secrets", signal.SIGTERM)
        with pytest.raises(UnavailableError) as ended:
            await anext(stream)
        assert ended.value.reason == "NOT_SERVING"
        await stream.aclose()
    await ending.expect(SLACK_SECONDS)


@pytest.mark.parametrize(("number", "finishes"), [(signal.SIGTERM, True), (signal.SIGINT, False)])
async def test_an_open_stream_is_let_finish_or_cut_at_the_end_of_the_grace(
    suite: RunningSuite, tmp_path: Path, number: signal.Signals, finishes: bool
) -> None:
    identity = (await suite.person("ana")).load()
    assert identity is not None
    go_on = asyncio.Event()

    async def messages(dataset: str) -> AsyncIterator[ingestion_pb2.AppendRecordsRequest]:
        request_id = str(uuid.uuid4())
        yield ingestion_pb2.AppendRecordsRequest(dataset=dataset, request_id=request_id, arrow_ipc=rows(3))
        await go_on.wait()
        yield ingestion_pb2.AppendRecordsRequest(arrow_ipc=rows(4))

    async with suite.client(tmp_path, identity, "ingestion", INGESTION) as client:
        name = f"shutdown_{number.name.lower()}_{finishes:d}"
        wanted = ingestion_pb2.CreateDatasetRequest(dataset_id=name, contract=CONTRACT)
        created = await patiently(lambda: client.call("CreateDataset", wanted))
        call = asyncio.create_task(client.send("AppendRecords", messages(created.name), timeout=60.0))
        await asyncio.sleep(0.5)
        ending = Ending(suite, "ingestion", number)
        await asyncio.sleep(0.7)
        if finishes:
            go_on.set()
            assert (await call).row_count == 7
        else:
            with pytest.raises((UnavailableError, CallCancelledError)):
                await call
        await ending.expect(GRACE_SECONDS + SLACK_SECONDS)
        asked = ingestion_pb2.GetDatasetRequest(name=created.name)
        kept = await patiently(lambda: client.call("GetDataset", asked))
        assert kept.row_count == (7 if finishes else 0)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """Make a call until nothing it needs is away: what it needs may have been ended by another test a moment ago."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return await call()
        except UnavailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.1)


def rows(count: int) -> bytes:
    """Return that many readings as an Arrow stream."""
    table = pa.table(
        {"reading": pa.array(range(count), pa.int64()), "taken": pa.array([0] * count, pa.timestamp("us", tz="UTC"))}
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_kill_9_of_the_supervisor_leaves_nothing_and_a_new_one_takes_over(held: Held) -> None:
    suite, state = held.suite, held.suite.state()
    pids = {service.pid: start_ticks(service.pid) for service in state.services.values()}
    assert len(pids) == len(SERVICES) + 1
    assert set(marked(state.run)) >= set(pids)
    held.process.kill()
    held.process.wait()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while any(start_ticks(pid) == ticks for pid, ticks in pids.items()) or taken(suite.config.all_ports()):
        assert time.monotonic() < deadline, "processes are left"
        time.sleep(0.05)
    assert marked(state.run) == []
    held.process = suite.start_bound()
    assert suite.status()["healthy"] is True
    assert suite.state().run != state.run
