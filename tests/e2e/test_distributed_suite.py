"""The distributed profile: the main job on PostgreSQL, Valkey and SeaweedFS, with two replicas of two services."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from tritonclient.grpc import InferInput

from hedgerow.features.v1 import features_pb2
from hedgerow.sdk import Hedgerow, triton_client
from tests.support.suite import ROOT, RunningSuite, whole_suite

PURPOSE = "credit_risk"
SERVICE = "featureServices/credit_default"
DEPLOYMENT = "deployments/credit_default"
CHAMPION = "models/credit_default/versions/champion"
CLIENTS = [f"CARD-01-{number:08d}" for number in range(100, 140)]
REPLICAS = ("features", "features-2", "inference", "inference-2")
STORES = ("postgres", "valkey", "seaweedfs")
PATIENCE_SECONDS = 60.0
DEMO_SECONDS = 600
# Of the machine that runs the test, and not of the suite.
MACHINE_CHECKS = {"demo_seconds", "rss_mib"}


@dataclass(frozen=True)
class Distributed:
    """A distributed suite after the main job.

    Attributes:
        checks: what the main job found of each of its checks.
    """

    suite: RunningSuite
    checks: dict[str, bool]

    async def connect(self, person: str, instance: str = "") -> Hedgerow:
        """Return a person's connection; with an instance, that replica alone is asked of its service."""
        addresses = dict(self.suite.context().addresses)
        if instance:
            addresses[instance.removesuffix("-2")] = f"127.0.0.1:{self.suite.config.port(instance)}"
        return Hedgerow.connect(await self.suite.person(person), addresses, purpose=PURPOSE)

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until something holds."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"never: {what}"
            await asyncio.sleep(0.05)

    async def until_back(self, unit: str, restarts: int) -> None:
        """Wait until the supervisor has started a unit anew and seen it healthy."""

        def serves() -> bool:
            state = self.suite.state().services[unit]
            return state.restarts == restarts + 1 and state.phase == "serving"

        await self.until(serves, f"{unit} is back")

    def kill(self, unit: str) -> int:
        """Kill a unit and return how often it had been started again before."""
        state = self.suite.state().services[unit]
        os.kill(state.pid, signal.SIGKILL)
        return state.restarts


@pytest.fixture(scope="module")
def distributed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Distributed]:
    """The suite, and the main job on it as a person runs it."""
    folder = tmp_path_factory.mktemp("distributed")
    file = folder / "suite.toml"
    file.write_text("[suite]\nprofile = 'distributed'\n")
    with whole_suite(folder / "suite", file) as suite:
        demo = subprocess.run(
            [sys.executable, "-m", "examples.credit.demo", "--profile", "distributed", "--dir", str(folder / "suite"),
             "--report", str(folder / "report")],
            cwd=ROOT, capture_output=True, text=True, timeout=DEMO_SECONDS, check=False,
        )  # fmt: skip
        assert demo.returncode == 0, f"{demo.stdout}\n{demo.stderr}"
        report = json.loads((folder / "report" / "report.json").read_text())
        compare: dict[str, Callable[[float, float], bool]] = {
            "==": lambda value, goal: value == goal,
            ">=": lambda value, goal: value >= goal,
            "<=": lambda value, goal: value <= goal,
        }
        checks = {each["name"]: compare[each["op"]](each["value"], each["goal"]) for each in report["checks"]}
        yield Distributed(suite, checks)


def test_the_main_job_keeps_its_goals(distributed: Distributed) -> None:
    missed = {name for name, is_met in distributed.checks.items() if not is_met}
    assert missed <= MACHINE_CHECKS
    assert len(distributed.checks) > len(MACHINE_CHECKS)


def test_status_shows_replicas_and_stores(distributed: Distributed) -> None:
    status = distributed.suite.status()
    assert status["healthy"]
    assert {*REPLICAS, *STORES} <= set(status["services"])
    assert all(status["services"][name]["health"] == "SERVING" for name in REPLICAS)
    assert all(status["services"][name]["health"] == "active" for name in STORES)
    assert all(status["services"][name]["rss_mib"] > 0 for name in (*REPLICAS, *STORES))
    ports = [port for name in REPLICAS for port in status["services"][name]["ports"].values()]
    assert len(set(ports)) == len(ports)


async def test_either_replica_gives_the_same_answers(distributed: Distributed) -> None:
    answers, blocks = [], []
    for suffix in ("", "-2"):
        async with await distributed.connect("creditapp", f"inference{suffix}") as creditapp:
            answer = await creditapp.inference.predict(DEPLOYMENT, CLIENTS)
            answers.append([each.probability for each in answer.predictions])
        async with await distributed.connect("creditapp", f"features{suffix}") as creditapp:
            blocks.append(await creditapp.features.get_online_features(SERVICE, CLIENTS))
    assert answers[0] == answers[1]
    assert blocks[0].values == blocks[1].values
    assert list(blocks[0].statuses) == [features_pb2.FeatureBlock.STATUS_PRESENT] * len(CLIENTS)


async def test_what_one_replica_deploys_the_other_serves_at_once(distributed: Distributed) -> None:
    async with (
        await distributed.connect("ben", "inference") as ben,
        await distributed.connect("creditapp", "inference-2") as creditapp,
    ):
        version = await ben.models.get_model_version(CHAMPION)
        await ben.inference.create_deployment("twin", version.name)
        twin = await creditapp.inference.predict("deployments/twin", CLIENTS)
        known = await creditapp.inference.predict(DEPLOYMENT, CLIENTS)
    assert twin.model_version == version.name
    assert [each.probability for each in twin.predictions] == [each.probability for each in known.predictions]


async def test_a_job_of_one_replica_is_watched_through_the_other(distributed: Distributed) -> None:
    async with (
        await distributed.connect("ana", "features") as first,
        await distributed.connect("ana", "features-2") as second,
    ):
        started = await first.features.create_materialization(SERVICE)
        ended = await second.features.wait_for_materialization(started.name)
    assert ended.state == features_pb2.Materialization.STATE_SUCCEEDED
    assert ended.entity_count > 0


async def test_a_job_of_a_replica_that_is_killed_is_failed_by_the_other(distributed: Distributed) -> None:
    async with (
        await distributed.connect("ana", "features-2") as first,
        await distributed.connect("ana", "features") as second,
    ):
        started = await first.features.create_materialization(SERVICE)
        restarts = distributed.kill("features-2")
        async with asyncio.timeout(PATIENCE_SECONDS):
            while (job := await second.features.get_materialization(started.name)).state == (
                features_pb2.Materialization.STATE_RUNNING
            ):
                await asyncio.sleep(0.1)
    # It may just have ended before the kill.
    assert job.state in (features_pb2.Materialization.STATE_FAILED, features_pb2.Materialization.STATE_SUCCEEDED)
    await distributed.until_back("features-2", restarts)


@pytest.mark.parametrize("victim", ["inference-2", "features"])
async def test_a_killed_replica_costs_no_prediction(distributed: Distributed, victim: str) -> None:
    """Predictions for entities, each of which asks inference and through it features, go on while one replica is gone."""
    stop = asyncio.Event()
    async with await distributed.connect("creditapp") as creditapp:
        [expected] = (await creditapp.inference.predict(DEPLOYMENT, CLIENTS[:1])).predictions

        async def keep_asking() -> int:
            count = 0
            while not stop.is_set():
                [prediction] = (await creditapp.inference.predict(DEPLOYMENT, CLIENTS[:1])).predictions
                assert prediction.probability == expected.probability
                count += 1
            return count

        askers = [asyncio.create_task(keep_asking()) for _ in range(8)]
        await asyncio.sleep(0.2)
        restarts = distributed.kill(victim)
        await distributed.until_back(victim, restarts)
        stop.set()
        assert min(await asyncio.gather(*askers)) > 0


async def test_tritonclient_works_with_one_replica_and_with_both(distributed: Distributed) -> None:
    identity = await distributed.suite.person("creditapp")
    both = distributed.suite.context().addresses["inference"]
    rows = np.zeros((2, await _width(distributed)), dtype=np.float32)

    def infer(address: str) -> list[float]:
        with triton_client(identity, address) as client:
            headers = {"hedgerow-purpose": PURPOSE}
            [described] = client.get_model_metadata("credit_default", headers=headers, client_timeout=10.0).inputs
            sent = InferInput(described.name, list(rows.shape), described.datatype)
            sent.set_data_from_numpy(rows.astype(np.float64 if described.datatype == "FP64" else np.float32))
            results = [client.infer("credit_default", [sent], headers=headers, client_timeout=10.0) for _ in range(4)]
            return [float(result.as_numpy(result.get_response().outputs[0].name).ravel()[0]) for result in results]

    for address in (both, both.partition(",")[0]):
        assert len(set(await asyncio.to_thread(infer, address))) == 1


async def _width(distributed: Distributed) -> int:
    async with await distributed.connect("creditapp") as creditapp:
        return len((await creditapp.inference.get_deployment(DEPLOYMENT)).feature_names)
