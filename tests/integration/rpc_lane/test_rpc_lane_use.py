"""A service that is offered on both ports gives the same answers and the same denials on both, to any client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from google.protobuf.wrappers_pb2 import BytesValue
from tritonclient.utils import InferenceServerException

from hedgerow.errors import HedgerowError
from hedgerow.inference.v1 import inference_pb2 as pb
from tests.integration.inference.test_inference_rpc import CREDIT, ROWS, World, tensor, world
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import serving

__all__ = ["world"]


@pytest.fixture(autouse=True)
def both_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open the second port too."""
    monkeypatch.setattr("tests.support.serving.LANE_LISTEN", "127.0.0.1:0")


def ports(world: World) -> list[World]:
    """Return the world as seen through each port."""
    seen = [replace(world, served=replace(world.served, on_lane=on_lane)) for on_lane in (False, True)]
    assert seen[0].served.target != seen[1].served.target
    return seen


async def outcome(call: Any) -> Any:
    """Return an answer, or all of a typed error."""
    try:
        return await call
    except HedgerowError as error:
        return type(error), error.reason, str(error), error.metadata, error.fields


async def test_the_sdk_gets_the_same_from_both(world: World) -> None:
    await world.deploy()
    predict = pb.PredictEntitiesRequest(deployment="deployments/credit", entity_keys=["c3", "nobody", "c7"])
    calls: list[tuple[str, str, Any, str]] = [
        ("creditapp", "PredictEntities", predict, "credit_risk"),
        ("creditapp", "GetDeployment", pb.GetDeploymentRequest(name="deployments/credit"), ""),
        ("ana", "ListDeployments", pb.ListDeploymentsRequest(), ""),
        ("mia", "PredictEntities", predict, "marketing"),
        ("creditapp", "PredictEntities", predict, "marketing"),
        ("nobody", "PredictEntities", predict, "credit_risk"),
        (
            "creditapp",
            "PredictEntities",
            pb.PredictEntitiesRequest(deployment="nope", entity_keys=["c1"]),
            "credit_risk",
        ),
        ("creditapp", "GetDeployment", pb.GetDeploymentRequest(name="deployments/none"), ""),
    ]
    seen = []
    for port in ports(world):
        before = len(world.served.events)
        answers = [
            await outcome(port.client(user).call(method, request, purpose=purpose, request_id=f"r{number}"))
            for number, (user, method, request, purpose) in enumerate(calls)
        ]
        trail = [
            (event.actor, event.action, event.resources, event.purpose, event.decision, event.code, event.request_id)
            for event in world.served.events[before:]
        ]
        seen.append((answers, trail))
    assert seen[0] == seen[1]
    assert len(seen[0][1]) == len(calls)


async def test_tritonclient_gets_the_same_from_both(world: World) -> None:
    await world.deploy()

    def status(call: Callable[[], Any]) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            call()
        return str(caught.value.status()), str(caught.value.message())

    def work(port: World) -> list[Any]:
        with port.triton(port.authority.user("creditapp")) as client:
            answer = client.infer("credit", tensor(ROWS), headers=CREDIT, request_id="r-1")
            outputs = [triton.InferRequestedOutput("probability")]
            some = client.infer("credit", tensor(ROWS[:2]), "1", outputs=outputs, headers=CREDIT)
            return [
                answer.as_numpy("probability").tolist(),
                some.as_numpy("probability").tolist(),
                client.is_server_ready(),
                client.get_model_metadata("credit").SerializeToString(),
                client.get_model_config("credit").SerializeToString(),
                client.get_model_repository_index().SerializeToString(),
                status(lambda: client.infer("no_such_model", tensor(ROWS), headers=CREDIT)),
                status(lambda: client.infer("credit", tensor(ROWS))),
                status(lambda: client.infer("credit", tensor(ROWS[0]), headers=CREDIT)),
                status(lambda: client.load_model("credit")),
            ]

    first, second = [await asyncio.to_thread(work, port) for port in ports(world)]
    assert first == second
    assert np.isfinite(np.array(first[0])).all()


async def test_a_handler_is_told_nothing_of_the_transport(tmp_path: Path) -> None:
    """What handlers get of the same call is the same, but for the one header that ``grpc.aio`` shows."""
    echo = Echo()
    async with serving(tmp_path, [echo_service(echo)]) as served:
        ana = served.authority.user("ana")
        for on_lane in (False, True):
            client = replace(served, on_lane=on_lane).client(ana, DESCRIPTOR)
            await client.call("Sleep", BytesValue(), purpose="credit_risk", request_id="r", timeout=5)
    told = [
        (
            type(call),
            call.caller,
            call.purpose,
            call.request_id,
            {key: value for key, value in call.metadata.items() if key != "accept-encoding"},
            dict(call.binary_metadata()),
            type(call.delegate()),
            0 <= call.time_left() <= 5,
        )
        for call in echo.calls
    ]
    assert told[0] == told[1]
