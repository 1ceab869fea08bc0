"""Real ranks over gloo: they agree, they stop together, and none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from services.training.launch import (
    ROOT,
    Limits,
    Trained,
    TrainingCancelledError,
    TrainingFailedError,
    TrainingProcess,
)
from services.training.metrics import auc
from services.training.recipe import Recipe, Tensors, for_judging, for_ranks
from services.training.splits import split_rows
from tests.unit.training.rows import FEATURES, training_rows, training_spec

SPLITS = split_rows(training_rows(1500), 7)
LIMITS = Limits(stall_seconds=90.0, run_seconds=300.0)
GONE_SECONDS = 20.0


class Heard:
    """The events of a run, and what to do at one."""

    def __init__(self, on: str = "", do: Callable[[dict[str, Any]], None] = lambda event: None) -> None:
        self.events: list[dict[str, Any]] = []
        self._on = on
        self._do = do

    def __call__(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["event"] == self._on:
            self._do(event)

    @property
    def pids(self) -> dict[int, int]:
        return {event["rank"]: event["pid"] for event in self.events if event["event"] == "rank"}


def recipe(**changes: object) -> Recipe:
    """A short run; ``endless`` ones are cut off by the test."""
    return Recipe.of(training_spec(**changes), heads=2)


def endless(**changes: object) -> Recipe:
    """A run that would take minutes."""
    return recipe(max_epochs=1000, learning_rate=1e-9, batch_size=8, hidden_sizes=(256, 256), **changes)


def train(content: Recipe, heard: Heard, ranks: Tensors | None = None, limits: Limits = LIMITS) -> Trained:
    """Run to the end."""
    judging = for_judging(SPLITS, np.full(FEATURES, 0.1))
    return TrainingProcess(limits).run(content, ranks or for_ranks(SPLITS), judging, heard)


def failure(content: Recipe, heard: Heard, ranks: Tensors | None = None, limits: Limits = LIMITS) -> str:
    """Why a run fails; nothing of it may be left."""
    with pytest.raises(TrainingFailedError) as caught:
        train(content, heard, ranks, limits)
    assert_gone(heard.pids)
    return str(caught.value)


def assert_gone(pids: dict[int, int]) -> None:
    """Every process has ended, soon."""
    deadline = time.monotonic() + GONE_SECONDS
    while left := [pid for pid in pids.values() if _lives(pid)]:
        assert time.monotonic() < deadline, f"still there: {left}"
        time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_two_ranks_learn_and_the_same_seed_gives_the_same_weights() -> None:
    heard = Heard()
    first, second = train(recipe(), heard), train(recipe(), Heard())
    assert sorted(heard.pids) == [0, 1]
    assert [event["epoch"] for event in heard.events if event["event"] == "epoch"] == [1, 2, 3]
    assert [event["event"] for event in heard.events[-2:]] == ["trained", "judged"]
    assert first.weights == second.weights
    assert first.onnx == second.onnx
    assert np.array_equal(first.test, second.test)
    assert auc(SPLITS["test"].labels, first.test) > 0.8
    session = onnxruntime.InferenceSession(first.onnx, providers=["CPUExecutionProvider"])
    (answer,) = session.run(["probability"], {"features": SPLITS["test"].features})
    assert np.abs(answer[:, 0] - first.test).max() < 1e-6
    assert_gone(heard.pids)


def test_the_number_of_ranks_changes_nothing_but_rounding() -> None:
    alone = train(recipe(world_size=1, dropout=0.0), Heard())
    three = train(recipe(world_size=3, dropout=0.0), Heard())
    assert np.abs(alone.test - three.test).max() < 1e-3


def test_a_loss_that_is_not_a_number_on_one_rank_stops_all_and_is_named() -> None:
    ranks = for_ranks(SPLITS)
    ranks["train.labels"] = ranks["train.labels"].copy()
    ranks["train.labels"][17] = np.nan
    heard = Heard()
    message = failure(recipe(world_size=3), heard, ranks)
    assert message.startswith("the loss is not a number on rank ")
    assert message.removeprefix("the loss is not a number on rank ")[:3] in ("0 i", "1 i", "2 i")
    assert message.endswith(("1 of 6", "2 of 6", "3 of 6", "4 of 6", "5 of 6", "6 of 6"))
    assert "in epoch 1, step" in message
    assert sorted(heard.pids) == [0, 1, 2]


def test_huge_but_finite_losses_are_not_taken_for_nan() -> None:
    ranks = for_ranks(SPLITS)
    ranks["train.labels"] = np.full_like(ranks["train.labels"], 1e34)
    heard = Heard()
    train(recipe(max_epochs=1, batch_size=65_536), heard, ranks)
    (epoch,) = [event for event in heard.events if event["event"] == "epoch"]
    assert 1e30 < abs(epoch["train_loss"]) < 1e36


def test_an_error_on_one_rank_fails_the_run_and_names_it() -> None:
    ranks = for_ranks(SPLITS)
    ranks["train.heads"] = ranks["train.heads"].copy()
    ranks["train.heads"][17] = 5  # there is no such head
    message = failure(recipe(), Heard(), ranks)
    assert message in ("rank 0 failed with RuntimeError", "rank 1 failed with RuntimeError")


def test_a_killed_rank_fails_the_run_and_is_named() -> None:
    heard = Heard("step", lambda event: _kill(heard.pids[1]))
    assert failure(endless(world_size=3), heard) == "rank 1 was ended by SIGKILL"


def test_a_run_that_says_nothing_is_ended() -> None:
    heard = Heard()
    assert failure(recipe(), heard, limits=Limits(0.01, 300.0)) == (
        "training said nothing for more than 0.01 s and was ended"
    )


def test_a_run_that_takes_too_long_is_ended() -> None:
    heard = Heard()
    message = failure(endless(), heard, limits=Limits(90.0, 8.0))
    assert message == "training took more than 8 s and was ended"


def test_cancelling_ends_every_rank() -> None:
    process = TrainingProcess(LIMITS)
    heard = Heard("step", lambda event: threading.Thread(target=process.cancel).start())
    with pytest.raises(TrainingCancelledError):
        process.run(endless(), for_ranks(SPLITS), for_judging(SPLITS, np.zeros(FEATURES)), heard)
    assert sorted(heard.pids) == [0, 1]
    assert_gone(heard.pids)


def test_nothing_listens_beyond_loopback() -> None:
    listening: set[str] = set()

    def look(event: dict[str, Any]) -> None:
        for pid in (*heard.pids.values(), _parent_of(heard.pids[0])):
            listening.update(_listening(pid))

    heard = Heard("epoch", look)
    train(recipe(), heard)
    assert listening == {"127.0.0.1"}


def test_a_run_cancelled_before_it_starts_never_starts() -> None:
    process = TrainingProcess(LIMITS)
    process.cancel()
    heard = Heard()
    with pytest.raises(TrainingCancelledError):
        process.run(recipe(), for_ranks(SPLITS), for_judging(SPLITS, np.zeros(FEATURES)), heard)
    assert heard.events == []


def test_ranks_end_when_the_service_is_killed() -> None:
    script = (
        "from tests.integration.training import test_training_process as t\n"
        "t.train(t.endless(), lambda event: print(event['event'], event.get('pid', ''), flush=True))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=ROOT, text=True) as service:
        assert service.stdout is not None
        pids: dict[int, int] = {}
        for line in service.stdout:
            word, _, pid = line.strip().partition(" ")
            if word == "rank":
                pids[len(pids)] = int(pid)
            if word == "step":
                break
        assert len(pids) == 2
        pids[2] = _parent_of(pids[0])
        assert pids[2] != service.pid
        service.kill()
    assert_gone(pids)


def test_the_service_itself_imports_no_torch() -> None:
    code = "import sys, services.training.__main__; print('torch' in sys.modules, 'onnxruntime' in sys.modules)"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=ROOT, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _listening(pid: int) -> set[str]:
    """The addresses that a process listens on."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(str(descriptor.readlink()).removeprefix("socket:[").removesuffix("]"))
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in inodes:
                address = bytes.fromhex(fields[1].partition(":")[0])
                found.add(".".join(map(str, address[::-1])) if len(address) == 4 else address.hex())
    return found


def _parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
