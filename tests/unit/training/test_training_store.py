"""The registry over the store on the encrypted database."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedgerow.errors import DataLossError, FailedPreconditionError
from libs.sql import Database, open_database
from services.training.gates import Outcome
from services.training.migrations import MIGRATIONS
from services.training.registry import CHUNK_BYTES, ArtifactFolder, Registry
from services.training.store import TrainingStore
from tests.unit.training.rows import PASSED, run, version

KEY = b"k" * 32


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = open_database(tmp_path / "training.db", KEY, MIGRATIONS)
    yield opened
    opened.close()


@pytest.fixture
def store(database: Database) -> TrainingStore:
    return TrainingStore(database)


@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.NOT_ENOUGH_EVIDENCE])
def test_a_version_is_promoted_only_on_passed_gates(store: TrainingStore, tmp_path: Path, outcome: Outcome) -> None:
    registry = Registry(store, ArtifactFolder(tmp_path / "a"), keys=None, now_us=lambda: 0)  # type: ignore[arg-type]
    bad = (PASSED, dataclasses.replace(PASSED, name="fairness:sex", outcome=outcome))
    for number, gates in ((1, (PASSED,)), (2, bad), (3, ())):
        store.next_number("credit")
        store.add_version(version(number, gates=gates))
    assert registry.promote("credit", "1", "live").number == 1
    for label, gates in (("2", "fairness:sex"), ("3", "")):
        with pytest.raises(FailedPreconditionError) as caught:
            registry.promote("credit", label, "live")
        assert caught.value.reason == "GATE_NOT_PASSED"
        assert caught.value.metadata["gates"] == gates
    assert store.version("credit", "live").number == 1


def test_artifacts_are_private_and_unnamed_ones_are_swept(store: TrainingStore, tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    artifacts = ArtifactFolder(folder)
    registry = Registry(store, artifacts, keys=None, now_us=lambda: 0)  # type: ignore[arg-type]
    content = bytes(CHUNK_BYTES + 5)
    for digest in ("a" * 64, "b" * 64):
        artifacts.put(digest, content)
    (folder / "c.partial").write_bytes(b"half")
    store.next_number("credit")
    store.add_version(version(1, digest="a" * 64))
    assert registry.sweep() == 2
    (kept,) = folder.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [len(chunk) for chunk in registry.chunks(version(1, digest="a" * 64))] == [CHUNK_BYTES, 5]
    with pytest.raises(DataLossError):
        next(registry.chunks(version(1, digest="d" * 64)))


def test_nothing_is_kept_in_clear(store: TrainingStore, tmp_path: Path) -> None:
    store.add_run(run("r1"))
    content = b"".join(path.read_bytes() for path in tmp_path.glob("training.db*"))
    assert b"trainingSets" not in content
