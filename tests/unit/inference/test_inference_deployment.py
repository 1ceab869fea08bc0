"""Deployments: swapping without a failed request, keeping, restoring; field cases OIP-01 and OIP-23."""

from __future__ import annotations

import asyncio
import datetime as dt
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from hedgerow.errors import (
    DataLossError,
    FailedPreconditionError,
    HedgerowError,
    NotFoundError,
    ResourceExhaustedError,
    UnavailableError,
)
from libs.artifact import Evidence
from libs.sql import open_database
from services.inference import __main__ as service_main
from services.inference import deployment as module
from services.inference.batching import BatchLimits
from services.inference.deployment import Deployment, DeploymentRecord, Deployments, SealedArtifacts
from services.inference.model_runtime import ModelRuntime, RuntimeLimits, ServedModel
from services.inference.store import MIGRATIONS, DeploymentTable
from tests.unit.inference.small_model import FEATURES, manifest, onnx_bytes, probabilities

FAR = float("inf")
ROW = np.ones((1, FEATURES))
KEY = bytes(32)


def record(version: int, deployment_id: str = "credit") -> DeploymentRecord:
    return DeploymentRecord(
        deployment_id=deployment_id,
        evidence=Evidence(f"models/credit/versions/{version}", f"{version:064x}", b"{}", b"s" * 64, 1),
        public_key=b"p" * 32,
        wrapped_key=b"wrapped",
        update_time=dt.datetime(2026, 11, 25, 3, 4, 5, 678901, tzinfo=dt.UTC),
    )


class MemoryStore:
    """Keeps records in a dict; can be told to fail."""

    def __init__(self) -> None:
        self.records: dict[str, DeploymentRecord] = {}
        self.broken = self.away = False
        self.reads = 0

    def put(self, kept: DeploymentRecord) -> None:
        if self.broken:
            raise DataLossError("the disk is full")
        self.records[kept.deployment_id] = kept

    def all(self) -> list[DeploymentRecord]:
        self.reads += 1
        if self.away:
            raise UnavailableError("the database is away")
        return [self.records[key] for key in sorted(self.records)]

    def mark(self) -> tuple[str, ...]:
        return tuple(self.records[key].evidence.artifact_digest for key in sorted(self.records))


class Loading:
    """Loads the small model whose seed is the version; can be held."""

    def __init__(self, runtime: ModelRuntime) -> None:
        self.runtime = runtime
        self.go = asyncio.Event()
        self.go.set()
        self.loaded: list[str] = []
        self.seen: list[tuple[bytes, bytes]] = []

    async def __call__(self, kept: DeploymentRecord, sealed: bytes, data_key: bytes) -> ServedModel:
        self.seen.append((sealed, data_key))
        await self.go.wait()
        if sealed == b"broken":
            raise FailedPreconditionError("its signature does not verify", reason="ARTIFACT_UNTRUSTED")
        self.loaded.append(kept.version)
        return await self.runtime.load(manifest(int(kept.version)), onnx_bytes(int(kept.version)))


@pytest.fixture
def runtime() -> Iterator[ModelRuntime]:
    runtime = ModelRuntime(RuntimeLimits(BatchLimits()))
    yield runtime
    runtime.close()


def make(runtime: ModelRuntime, folder: Path) -> tuple[Deployments, MemoryStore, Loading]:
    store, loading = MemoryStore(), Loading(runtime)
    return Deployments(store, SealedArtifacts(folder / "artifacts"), loading), store, loading


async def answer_of(deployment: Deployment) -> float:
    return float((await deployment.model.predict(ROW, expires_at=FAR))[0, 0])


async def test_unknown_name_and_version_are_not_found_and_loading_is_unavailable(
    runtime: ModelRuntime, tmp_path: Path
) -> None:
    """OIP-01."""
    deployments, _, loading = make(runtime, tmp_path)
    with pytest.raises(NotFoundError):
        deployments.find("credit")
    loading.go.clear()
    task = asyncio.create_task(deployments.deploy(record(1), b"sealed", KEY))
    while not loading.seen:
        await asyncio.sleep(0)
    with pytest.raises(UnavailableError) as caught:
        deployments.find("credit")
    assert caught.value.reason == "NOT_SERVING"
    assert deployments.pending() == ["credit"]
    loading.go.set()
    await task
    assert deployments.find("credit", "1").record.version == "1"
    assert deployments.purposes("credit") == ("credit_risk",)
    assert deployments.purposes("no_such_model") == ()
    with pytest.raises(NotFoundError):
        deployments.find("credit", "99")
    with pytest.raises(NotFoundError):
        deployments.find("no_such_model")


async def test_redeployment_fails_no_request_and_a_broken_version_leaves_the_old(
    runtime: ModelRuntime, tmp_path: Path
) -> None:
    """OIP-23."""
    deployments, store, _ = make(runtime, tmp_path)
    await deployments.deploy(record(1), b"one", KEY)
    expected = {float(probabilities(ROW, seed)[0]) for seed in (1, 2)}
    answers: list[float] = []
    done = asyncio.Event()

    async def ask() -> None:
        while not done.is_set():
            deployment = deployments.find("credit")
            await asyncio.sleep(0)  # as a feature look-up between the two
            answers.append(await answer_of(deployment))

    callers = [asyncio.create_task(ask()) for _ in range(8)]
    await deployments.deploy(record(2), b"two", KEY)
    with pytest.raises(FailedPreconditionError):
        await deployments.deploy(record(3), b"broken", KEY)
    done.set()
    await asyncio.gather(*callers)
    assert len(answers) >= 8
    assert all(min(abs(answer - value) for value in expected) < 1e-6 for answer in answers)
    assert deployments.find("credit").record.version == "2"
    assert await answer_of(deployments.find("credit")) == pytest.approx(probabilities(ROW, 2)[0], abs=1e-6)
    assert store.records["credit"].version == "2"
    assert sorted(path.name for path in (tmp_path / "artifacts").iterdir()) == [f"{2:064x}.sealed"]


async def test_failed_first_deployment_leaves_nothing(runtime: ModelRuntime, tmp_path: Path) -> None:
    deployments, store, _ = make(runtime, tmp_path)
    with pytest.raises(FailedPreconditionError):
        await deployments.deploy(record(1), b"broken", KEY)
    assert deployments.pending() == []
    assert store.records == {}
    with pytest.raises(NotFoundError):
        deployments.find("credit")


async def test_store_that_fails_leaves_the_old_version(runtime: ModelRuntime, tmp_path: Path) -> None:
    deployments, store, _ = make(runtime, tmp_path)
    await deployments.deploy(record(1), b"one", KEY)
    store.broken = True
    with pytest.raises(DataLossError):
        await deployments.deploy(record(2), b"two", KEY)
    assert deployments.find("credit").record.version == "1"


async def test_caller_who_leaves_does_not_stop_a_deployment_half_way(runtime: ModelRuntime, tmp_path: Path) -> None:
    deployments, store, loading = make(runtime, tmp_path)
    loading.go.clear()
    task = asyncio.create_task(deployments.deploy(record(1), b"one", KEY))
    while not loading.seen:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    loading.go.set()
    await deployments.deploy(record(1, "other"), b"one", KEY)
    assert deployments.find("credit").record == store.records["credit"]


async def test_restart_loads_what_was_kept_and_verifies_it_again(runtime: ModelRuntime, tmp_path: Path) -> None:
    deployments, store, _ = make(runtime, tmp_path)
    await deployments.deploy(record(1, "one"), b"one", KEY)
    await deployments.deploy(record(2, "two"), b"two", KEY)
    await deployments.deploy(record(3, "worn"), b"three", KEY)
    (tmp_path / "artifacts" / f"{3:064x}.sealed").write_bytes(b"broken")
    await deployments.deploy(record(4, "lost"), b"four", KEY)
    (tmp_path / "artifacts" / f"{4:064x}.sealed").unlink()

    again = Loading(runtime)
    restarted = Deployments(store, SealedArtifacts(tmp_path / "artifacts"), again)
    failures: dict[str, str] = {}

    async def unwrap(wrapped: bytes) -> bytes:
        assert wrapped == b"wrapped"
        return KEY

    def failed(deployment_id: str, error: HedgerowError) -> None:
        failures[deployment_id] = error.reason

    await restarted.restore(unwrap, failed)
    assert [deployment.record.deployment_id for deployment in restarted.serving()] == ["one", "two"]
    assert (b"one", KEY) in again.seen
    assert failures == {"worn": "ARTIFACT_UNTRUSTED", "lost": "DATA_CORRUPT"}
    assert restarted.pending() == ["lost", "worn"]
    assert restarted.record("worn") == record(3, "worn")
    with pytest.raises(UnavailableError):
        restarted.find("worn")
    await restarted.deploy(record(5, "worn"), b"five", KEY)
    assert restarted.find("worn").record.version == "5"


async def test_what_did_not_load_is_loaded_when_its_key_comes_back(runtime: ModelRuntime, tmp_path: Path) -> None:
    deployments, store, _ = make(runtime, tmp_path)
    await deployments.deploy(record(1, "one"), b"one", KEY)
    loading = Loading(runtime)
    restarted = Deployments(store, SealedArtifacts(tmp_path / "artifacts"), loading)
    failures: list[str] = []

    async def away(wrapped: bytes) -> bytes:
        raise UnavailableError("the secrets service is away")

    async def back(wrapped: bytes) -> bytes:
        return KEY

    await restarted.restore(away, lambda deployment_id, error: failures.append(error.reason))
    assert failures == ["DEPENDENCY_UNAVAILABLE"]
    assert restarted.pending() == ["one"]
    for _ in range(2):
        await restarted.restore(back, lambda deployment_id, error: failures.append(error.reason))
    assert restarted.pending() == []
    assert loading.loaded == ["1"]
    assert len(failures) == 1


async def test_a_database_that_is_away_leaves_what_is_to_be_loaded_incomplete(
    runtime: ModelRuntime, tmp_path: Path
) -> None:
    """Else nothing would try again for the life of the process."""
    deployments, store, _ = make(runtime, tmp_path)
    await deployments.deploy(record(1), b"one", KEY)
    restarted = Deployments(store, SealedArtifacts(tmp_path / "artifacts"), Loading(runtime))

    async def away(wrapped: bytes) -> bytes:
        raise UnavailableError("the secrets service is away")

    async def back(wrapped: bytes) -> bytes:
        return KEY

    await restarted.restore(away, lambda deployment_id, error: None)
    store.away = True
    with pytest.raises(UnavailableError):
        await restarted.restore(back, lambda deployment_id, error: None)
    assert restarted.incomplete()
    store.away = False
    await restarted.restore(back, lambda deployment_id, error: None)
    assert not restarted.incomplete()
    assert restarted.find("credit").record.version == "1"


async def test_the_retry_outlives_a_database_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_main, "RETRY_SECONDS", 0.0)
    tried: list[int] = []

    class Incomplete:
        def incomplete(self) -> bool:
            return len(tried) < 3

        async def restore(self, *args: object) -> None:
            tried.append(1)
            raise UnavailableError("the database is away")

    async def unwrap(wrapped: bytes) -> bytes:
        return KEY

    task = asyncio.create_task(service_main._load_the_rest(cast(Deployments, Incomplete()), unwrap))
    async with asyncio.timeout(30):
        while len(tried) < 3:
            await asyncio.sleep(0)
    assert not task.done()
    task.cancel()


async def test_an_artifact_that_cannot_be_read_stops_no_other(runtime: ModelRuntime, tmp_path: Path) -> None:
    """A folder in place of the file stands for a disk or a share that fails."""
    deployments, store, _ = make(runtime, tmp_path)
    await deployments.deploy(record(1, "one"), b"one", KEY)
    await deployments.deploy(record(2, "two"), b"two", KEY)
    artifact = tmp_path / "artifacts" / f"{1:064x}.sealed"
    artifact.unlink()
    artifact.mkdir()
    restarted = Deployments(store, SealedArtifacts(tmp_path / "artifacts"), Loading(runtime))
    failures: list[tuple[str, str]] = []

    async def unwrap(wrapped: bytes) -> bytes:
        return KEY

    await restarted.restore(unwrap, lambda deployment_id, error: failures.append((deployment_id, error.code_name)))
    assert failures == [("one", "UNAVAILABLE")]
    assert restarted.pending() == ["one"]
    assert restarted.find("two").record.version == "2"


async def test_a_look_reads_the_records_only_when_they_changed(runtime: ModelRuntime, tmp_path: Path) -> None:
    first, store, _ = make(runtime, tmp_path)
    second = Deployments(store, SealedArtifacts(tmp_path / "artifacts"), Loading(runtime))

    async def unwrap(wrapped: bytes) -> bytes:
        return KEY

    second.share(unwrap, lambda deployment_id, error: None)
    for version in (1, 2):
        await first.deploy(record(version), b"x", KEY)
        before = store.reads
        for _ in range(5):
            await second.look()
        assert store.reads == before + 1
        assert second.find("credit").record.version == str(version)


async def test_a_replica_serves_what_another_deploys(runtime: ModelRuntime, tmp_path: Path) -> None:
    """At once by a name it does not know, at its next look with a newer version; what does not load leaves the former."""
    first, store, _ = make(runtime, tmp_path)
    loading = Loading(runtime)
    second = Deployments(store, SealedArtifacts(tmp_path / "artifacts"), loading)
    failures: list[str] = []

    async def unwrap(wrapped: bytes) -> bytes:
        return KEY

    await first.deploy(record(1), b"one", KEY)
    await second.catch_up("credit")
    with pytest.raises(NotFoundError):
        second.find("credit")
    second.share(unwrap, lambda deployment_id, error: failures.append(error.reason))
    await asyncio.gather(*(second.catch_up("credit") for _ in range(10)))
    assert second.find("credit").record == record(1)
    assert loading.loaded == ["1"]
    await first.deploy(record(2), b"two", KEY)
    await second.catch_up("credit")
    assert second.find("credit").record.version == "1"
    await second.look()
    assert second.find("credit").record.version == "2"
    await first.deploy(record(3), b"three", KEY)
    (tmp_path / "artifacts" / f"{3:064x}.sealed").write_bytes(b"broken")
    for _ in range(3):
        await second.look()
    assert failures == ["ARTIFACT_UNTRUSTED"]
    assert second.incomplete()
    assert second.find("credit").record.version == "2"
    await second.deploy(record(4), b"four", KEY)
    assert not second.incomplete()
    await first.catch_up("credit")
    assert first.find("credit").record.version == "3"


async def test_one_version_is_loaded_and_no_other(runtime: ModelRuntime, tmp_path: Path) -> None:
    """OIP-28."""
    deployments, _, loading = make(runtime, tmp_path)
    await deployments.deploy(record(37), b"x", KEY)
    await deployments.deploy(record(38, "next"), b"x", KEY)
    assert loading.loaded == ["37", "38"]


async def test_deployments_are_bounded(runtime: ModelRuntime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DEPLOYMENTS", 1)
    deployments, _, _ = make(runtime, tmp_path)
    await deployments.deploy(record(1), b"x", KEY)
    with pytest.raises(ResourceExhaustedError):
        await deployments.deploy(record(1, "other"), b"x", KEY)
    await deployments.deploy(record(2), b"x", KEY)


def test_sealed_artifacts_are_private_and_replaced_whole(tmp_path: Path) -> None:
    artifacts = SealedArtifacts(tmp_path / "artifacts")
    artifacts.put("a" * 64, b"first")
    artifacts.put("a" * 64, b"second")
    (path,) = (tmp_path / "artifacts").iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert artifacts.get("a" * 64) == b"second"
    artifacts.keep_only([])
    with pytest.raises(DataLossError):
        artifacts.get("a" * 64)


def test_table_keeps_records_through_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "inference.db"
    database = open_database(path, b"k" * 32, MIGRATIONS)
    table = DeploymentTable(database)
    table.put(record(1))
    table.put(record(2))
    before = table.mark()
    table.put(record(1, "another"))
    assert table.mark() != before
    assert table.mark() == table.mark()
    database.close()
    reopened = open_database(path, b"k" * 32, MIGRATIONS)
    assert DeploymentTable(reopened).all() == [record(1, "another"), record(2)]
    reopened.close()
    assert b"models/credit" not in path.read_bytes()
