"""What a run sees of the services meanwhile: restarts that nobody asked for, the end of the suite, rotated certificates."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from loadtests import local_run
from loadtests.__main__ import rotation
from loadtests.local_run import LoadError, LocalRun
from loadtests.report import Disturbances
from suite.process import start_ticks
from suite.run_file import RunFolder, RunState, ServiceState


class Suite:
    """The run file of a suite that this process stands for."""

    def __init__(self, folder: Path) -> None:
        self._file = RunFolder(folder / "run")
        self._file.folder.mkdir()
        self.state = RunState(os.getpid(), start_ticks(os.getpid()) or 0, "run")
        self.state.services = {
            name: ServiceState("serving", os.getpid(), restarts=2) for name in ("features", "inference")
        }
        self.write()

    def write(self) -> None:
        self._file.write(self.state)


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)


async def test_only_restarts_that_nobody_asked_for_count(suite: Suite, tmp_path: Path) -> None:
    """A service that leaks, is killed for it and starts again small must not pass for one that is flat."""
    local = LocalRun(tmp_path, 1)
    async with local.observed() as calm:
        suite.state.services["inference"].restarts += 1
        local.kills["inference"] += 1
        suite.write()
    assert calm.unexpected_restarts == 0
    async with local.observed() as seen:
        suite.state.services["features"].restarts += 2
        suite.state.services["inference"].restarts += 1
        suite.write()
    assert seen.unexpected_restarts == 3


async def test_memory_is_noted_while_it_runs(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_run, "SAMPLE_SECONDS", 0.0)
    async with asyncio.timeout(30), LocalRun(tmp_path, 1).observed() as seen:
        while len(seen.samples) < 3:
            await asyncio.sleep(0)
    assert set(seen.samples[-1][1]) == {"features", "inference"}


async def test_a_suite_that_ended_meanwhile_ends_the_run(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_run, "SAMPLE_SECONDS", 0.0)
    local = LocalRun(tmp_path, 1)
    before = asyncio.all_tasks()
    with pytest.raises(LoadError, match="no suite is running"):
        async with asyncio.timeout(30), local.observed():
            suite.state.start_ticks = -1
            suite.write()
            while asyncio.all_tasks() - before:
                await asyncio.sleep(0)
            # It is up again before anyone looks.
            suite.state.start_ticks = start_ticks(os.getpid()) or 0
            suite.write()


def test_each_service_must_rotate_where_that_is_due() -> None:
    done = Disturbances(rotated=["ana"])
    [check] = rotation(done, {"features": 1, "secrets": 2}, {"features": 3, "secrets": 2}, due=True)
    assert (check.value, check.goal, check.met) == (1, 2, False)
    assert done.rotated == ["ana", "features"]
    [check] = rotation(Disturbances(), {"features": 1, "secrets": 2}, {"features": 3, "secrets": 4}, due=True)
    assert check.met


def test_a_run_too_short_for_a_rotation_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert rotation(Disturbances(), {"features": 1}, {"features": 1}, due=False) == []
    assert "rotate" in capsys.readouterr().out
