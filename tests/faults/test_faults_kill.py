"""kill -9 of each service while a client goes on asking: back within 5 s, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable

import psutil
import pytest

from hedgerow.training.v1 import training_pb2
from suite.process import start_ticks
from tests.faults.load import PATIENCE_SECONDS, Load, keep_asking
from tests.support import gym as app
from tests.support.gym import Gym
from tests.support.suite import RunningSuite

BACK_SECONDS = 5.0
# What a call may get while the service it needs is away; anything else would be a fault of its own.
AWAY = {"UNAVAILABLE DEPENDENCY_UNAVAILABLE", "UNAVAILABLE NOT_SERVING", "DEADLINE_EXCEEDED DEADLINE_EXCEEDED"}
# The kind of call that shows that a service is back, and those that need it.
PROOF = {
    "ingestion": "append",
    "features": "read",
    "inference": "predict",
    "training": "registry",
    "governance": "policies",
    "secrets": "keys",
    "openbao": "keys",
}
NEEDED_BY = {
    "ingestion": {"append"},
    "features": {"read", "predict"},
    "inference": {"predict"},
    "training": {"registry"},
    "governance": {"policies"},
    "secrets": {"keys"},
    "openbao": {"keys"},
}


def kill(suite: RunningSuite, service: str) -> float:
    """Kill a service and return when, monotonic seconds."""
    os.kill(suite.state().services[service].pid, signal.SIGKILL)
    return time.monotonic()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"never: {what}"
        await asyncio.sleep(0.02)


async def until_serving(suite: RunningSuite, service: str, restarts: int) -> None:
    """Wait until the supervisor has started a service anew and seen it healthy."""

    def serves() -> bool:
        state = suite.state().services[service]
        return state.restarts == restarts and state.phase == "serving"

    await until(serves, f"{service} serving after {restarts} restarts")


@contextlib.asynccontextmanager
async def loaded(suite: RunningSuite, name: str) -> AsyncIterator[Load]:
    """Yield a load; at its end every acknowledged row is there once, and the trail verifies."""
    dataset_id = f"readings_{name}"
    async with keep_asking(suite, dataset_id) as load:
        yield load
    async with await suite.connect("ana") as ana, await suite.connect("pia") as pia:
        dataset = await ana.ingestion.get_dataset(load.dataset)
        # The append under way at the end may have been carried out; no other one can be unacknowledged.
        assert dataset.row_count - load.acknowledged in (0, 1)
        assert load.acknowledged > 0
        assert dataset.quarantined_row_count == 0
        verified = await pia.governance.verify_audit_trail(seal_first=True)
        assert verified.verified, list(verified.faults)
        assert not verified.anchors


@pytest.mark.parametrize("service", PROOF)
async def test_a_killed_service_is_back_within_five_seconds_and_lost_nothing(
    whole_suite: RunningSuite, gym: Gym, service: str
) -> None:
    restarts = whole_suite.restarts()
    async with loaded(whole_suite, service) as load:
        killed = kill(whole_suite, service)
        seen = await load.first_after(PROOF[service], killed)
        for kind in load.outcomes:
            await load.first_after(kind, killed)
        await until_serving(whole_suite, service, restarts[service] + 1)
        for kind in load.outcomes:
            refused = load.refused_since(kind, killed)
            assert refused <= (AWAY if kind in NEEDED_BY[service] else set()), kind
    assert seen - killed < BACK_SECONDS
    assert whole_suite.restarts() == {**restarts, service: restarts[service] + 1}


async def test_inference_comes_back_and_predicts_while_training_is_away(whole_suite: RunningSuite, gym: Gym) -> None:
    restarts = whole_suite.restarts()["inference"]
    training = whole_suite.state().services["training"].pid
    async with loaded(whole_suite, "no_training") as load:
        os.kill(training, signal.SIGSTOP)
        try:
            killed = kill(whole_suite, "inference")
            assert await load.first_after("predict", killed) - killed < BACK_SECONDS
        finally:
            os.kill(training, signal.SIGCONT)
        await until_serving(whole_suite, "inference", restarts + 1)
        await load.first_after("registry", time.monotonic())


async def test_two_services_killed_at_once_come_back(whole_suite: RunningSuite, gym: Gym) -> None:
    """Whoever starts first finds the other away, and waits for it."""
    restarts = whole_suite.restarts()
    async with loaded(whole_suite, "two") as load:
        kill(whole_suite, "openbao")
        kill(whole_suite, "ingestion")
        killed = kill(whole_suite, "features")
        for kind in load.outcomes:
            await load.first_after(kind, killed)
        for service in ("openbao", "ingestion", "features"):
            await until_serving(whole_suite, service, restarts[service] + 1)


async def test_a_training_run_that_is_killed_leaves_no_rank_and_says_so(whole_suite: RunningSuite, gym: Gym) -> None:
    restarts = whole_suite.restarts()["training"]
    spec = app.training_spec()
    spec.model, spec.max_epochs = "models/gym_killed", 1000
    async with await whole_suite.connect("ben", app.PURPOSE) as ben:
        run = await ben.training.create_training_run(spec)
        service = psutil.Process(whole_suite.state().services["training"].pid)
        # The training process and its two ranks, which carry no mark of the supervisor.
        await until(lambda: len(service.children(recursive=True)) >= 3, "two ranks")
        ranks = {child.pid: start_ticks(child.pid) for child in service.children(recursive=True)}
        kill(whole_suite, "training")
        await until_serving(whole_suite, "training", restarts + 1)
        assert [pid for pid, ticks in ranks.items() if start_ticks(pid) == ticks] == []
        ended = await ben.training.get_training_run(run.name)
        assert ended.state == training_pb2.TrainingRun.STATE_FAILED
        assert ended.error
        assert [model.name async for model in ben.models.list_models()].count(spec.model) == 0
