"""The Open Inference Protocol's handlers: field cases OIP-01, 02, 06, 07, 13, 14, 17."""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferResult, service_pb2

from hedgerow.errors import InvalidArgumentError, NotFoundError, UnimplementedError
from services.inference.batching import BatchLimits
from services.inference.deployment import DeploymentRecord, Deployments, SealedArtifacts
from services.inference.model_runtime import ModelRuntime, RuntimeLimits
from services.inference.oip import OpenInferenceServicer, rpc_service
from services.inference.registry import VersionLoader
from tests.unit.inference.calls import call
from tests.unit.inference.small_model import DATA_KEY, FEATURES, PUBLIC_KEY, probabilities, sealed_version


class NoStore:
    """Keeps nothing."""

    def put(self, record: DeploymentRecord) -> None:
        pass

    def all(self) -> list[DeploymentRecord]:
        return []

    def mark(self) -> tuple[str, ...]:
        return ()


@pytest.fixture
async def servicer(tmp_path: Path) -> AsyncIterator[OpenInferenceServicer]:
    runtime = ModelRuntime(RuntimeLimits(BatchLimits()))
    deployments = Deployments(NoStore(), SealedArtifacts(tmp_path), VersionLoader(runtime))
    sealed, evidence = sealed_version(7)
    now = dt.datetime(2026, 11, 25, tzinfo=dt.UTC)
    await deployments.deploy(DeploymentRecord("credit", evidence, PUBLIC_KEY, b"w", now), sealed, DATA_KEY)
    yield OpenInferenceServicer(deployments, stopping=lambda: False, request_rows=100, default_seconds=30.0)
    await deployments.close()
    runtime.close()


def infer(rows: np.ndarray, *, name: str = "credit", version: str = "") -> Any:
    request = service_pb2.ModelInferRequest(model_name=name, model_version=version, id="id-1")
    request.inputs.add(name="features", datatype="FP64", shape=rows.shape)
    request.raw_input_contents.append(rows.astype("<f8").tobytes())
    return request


ROWS = np.random.default_rng(8).normal(size=(3, FEATURES))


async def test_infer_answers_in_order_with_the_version(servicer: OpenInferenceServicer) -> None:
    response = await servicer.model_infer(infer(ROWS), call())
    assert (response.model_name, response.model_version, response.id) == ("credit", "7", "id-1")
    answer = InferResult(response).as_numpy("probability")
    assert answer.shape == (3, 1)
    np.testing.assert_allclose(answer[:, 0], probabilities(ROWS, 7), atol=1e-6)


async def test_typed_request_gets_a_typed_answer(servicer: OpenInferenceServicer) -> None:
    request = service_pb2.ModelInferRequest(model_name="credit", model_version="7")
    request.inputs.add(
        name="features", datatype="FP64", shape=ROWS.shape, contents={"fp64_contents": ROWS.ravel().tolist()}
    )
    response = await servicer.model_infer(request, call())
    assert not response.raw_output_contents
    np.testing.assert_allclose(response.outputs[0].contents.fp64_contents, probabilities(ROWS, 7), atol=1e-6)


async def test_unknown_model_and_version_are_not_found(servicer: OpenInferenceServicer) -> None:
    for name, version in (("no_such_model", ""), ("credit", "99"), ("credit", "07")):
        with pytest.raises(NotFoundError):
            await servicer.model_infer(infer(ROWS, name=name, version=version), call())
        request = service_pb2.ModelMetadataRequest(name=name, version=version)
        with pytest.raises(NotFoundError):
            await servicer.model_metadata(request, call())
        ready = await servicer.model_ready(service_pb2.ModelReadyRequest(name=name, version=version), call())
        assert not ready.ready


async def test_empty_batch(servicer: OpenInferenceServicer) -> None:
    response = await servicer.model_infer(infer(np.empty((0, FEATURES))), call())
    assert InferResult(response).as_numpy("probability").shape == (0, 1)
    statistics = await servicer.model_statistics(service_pb2.ModelStatisticsRequest(name="credit"), call())
    assert statistics.model_stats[0].inference_count == 0


async def test_bad_request_is_refused_and_the_next_good_one_answered(servicer: OpenInferenceServicer) -> None:
    lying = infer(ROWS)
    lying.inputs[0].shape[:] = [-1, FEATURES]
    with pytest.raises(InvalidArgumentError) as caught:
        await servicer.model_infer(lying, call())
    assert caught.value.reason == "TENSOR_INVALID"
    flat = infer(ROWS[0])
    with pytest.raises(InvalidArgumentError, match=r"send \[1, 5\] for one row"):
        await servicer.model_infer(flat, call())
    many = infer(np.zeros((101, FEATURES)))
    with pytest.raises(InvalidArgumentError, match="at most 100 rows"):
        await servicer.model_infer(many, call())
    assert (await servicer.model_infer(infer(ROWS), call())).id == "id-1"


async def test_output_that_does_not_exist_is_refused(servicer: OpenInferenceServicer) -> None:
    request = infer(ROWS)
    request.outputs.add(name="logit")
    with pytest.raises(InvalidArgumentError) as caught:
        await servicer.model_infer(request, call())
    assert caught.value.reason == "TENSOR_INVALID"


async def test_metadata_and_configuration(servicer: OpenInferenceServicer) -> None:
    metadata = await servicer.model_metadata(service_pb2.ModelMetadataRequest(name="credit"), call())
    assert list(metadata.versions) == ["7"]
    tensor = metadata.inputs[0]
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("features", "FP64", [-1, FEATURES])
    tensor = metadata.outputs[0]
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("probability", "FP64", [-1, 1])
    config = (await servicer.model_config(service_pb2.ModelConfigRequest(name="credit"), call())).config
    assert (config.name, config.max_batch_size, list(config.input[0].dims)) == ("credit", 100, [FEATURES])
    assert config.HasField("dynamic_batching")


async def test_server_and_repository(servicer: OpenInferenceServicer) -> None:
    assert (await servicer.server_live(service_pb2.ServerLiveRequest(), call())).live
    assert (await servicer.server_ready(service_pb2.ServerReadyRequest(), call())).ready
    assert (await servicer.server_metadata(service_pb2.ServerMetadataRequest(), call())).name == "hedgerow"
    index = await servicer.repository_index(service_pb2.RepositoryIndexRequest(), call())
    assert [(model.name, model.version, model.state) for model in index.models] == [("credit", "7", "READY")]


async def test_statistics_count_rows_and_batches(servicer: OpenInferenceServicer) -> None:
    for _ in range(2):
        await servicer.model_infer(infer(ROWS), call())
    statistics = await servicer.model_statistics(service_pb2.ModelStatisticsRequest(), call())
    (model,) = statistics.model_stats
    assert (model.name, model.version, model.inference_count, model.execution_count) == ("credit", "7", 6, 2)
    assert model.inference_stats.success.count == 2
    assert model.inference_stats.compute_infer.ns > 0
    assert [(batch.batch_size, batch.compute_infer.count) for batch in model.batch_stats] == [(3, 2)]
    assert model.last_inference > 1_700_000_000_000


@pytest.mark.parametrize(
    "method",
    [
        "repository_model_load", "repository_model_unload", "system_shared_memory_status",
        "system_shared_memory_register", "system_shared_memory_unregister", "cuda_shared_memory_status",
        "cuda_shared_memory_register", "cuda_shared_memory_unregister", "trace_setting", "log_settings",
    ],
)  # fmt: skip
async def test_what_is_not_offered_says_what_to_use(servicer: OpenInferenceServicer, method: str) -> None:
    with pytest.raises(UnimplementedError) as caught:
        await getattr(servicer, method)(None, call())
    assert len(caught.value.message) > 20


async def stream(servicer: OpenInferenceServicer, *requests: Any) -> list[Any]:
    async def sent() -> AsyncIterator[Any]:
        for request in requests:
            yield request

    return [response async for response in servicer.model_stream_infer(sent(), call())]


@pytest.mark.parametrize("wants_empty_final", [None, False, True])
async def test_each_answer_of_a_stream_is_the_final_one(
    servicer: OpenInferenceServicer, wants_empty_final: bool | None
) -> None:
    """OIP-17."""
    requests = [infer(ROWS), infer(ROWS[:1]), infer(ROWS[:0])]
    for request in requests:
        if wants_empty_final is not None:
            request.parameters["triton_enable_empty_final_response"].bool_param = wants_empty_final
    answers = await stream(servicer, *requests)
    assert [answer.error_message for answer in answers] == ["", "", ""]
    assert [answer.infer_response.outputs[0].shape[0] for answer in answers] == [3, 1, 0]
    assert all(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)


async def test_a_request_of_a_stream_that_fails_does_not_end_it(servicer: OpenInferenceServicer) -> None:
    wrong = infer(ROWS)
    wrong.inputs[0].name = "x"
    text = infer(ROWS)
    text.parameters["triton_enable_empty_final_response"].string_param = "true"
    unknown = infer(ROWS)
    unknown.parameters["triton_x"].bool_param = True
    sequence = infer(ROWS)
    sequence.parameters["sequence_id"].int64_param = 5
    missing = infer(ROWS, name="no_such_model")
    answers = await stream(servicer, wrong, text, unknown, sequence, missing, infer(ROWS))
    assert [answer.error_message.partition(":")[0] for answer in answers] == [
        "INVALID_ARGUMENT", "INVALID_ARGUMENT", "INVALID_ARGUMENT", "UNIMPLEMENTED", "NOT_FOUND", "",
    ]  # fmt: skip
    assert all(answer.infer_response.id == "id-1" for answer in answers)


async def test_parameters_are_understood_or_refused(servicer: OpenInferenceServicer) -> None:
    request = infer(ROWS)
    request.parameters["callers_own"].string_param = "left alone"
    request.parameters["priority"].uint64_param = 1
    request.parameters["timeout"].int64_param = 60_000_000
    await servicer.model_infer(request, call())
    request.parameters["timeout"].string_param = "soon"
    with pytest.raises(InvalidArgumentError) as caught:
        await servicer.model_infer(request, call())
    assert list(caught.value.fields) == ["parameters[timeout]"]


async def test_half_a_raw_buffer_is_refused(servicer: OpenInferenceServicer) -> None:
    request = infer(ROWS)
    request.raw_input_contents[0] = struct.pack("<d", 1.0)
    with pytest.raises(InvalidArgumentError):
        await servicer.model_infer(request, call())


async def test_every_method_is_registered_and_needs_no_deadline(servicer: OpenInferenceServicer) -> None:
    async def describe(resource: Any) -> Any:
        raise AssertionError

    service = rpc_service(servicer, describe)
    assert len(service.methods) == 20
    assert not any(method.access.deadline_required for method in service.methods)
    by_name = {method.path.rpartition("/")[2]: method for method in service.methods}
    (resource,) = by_name["ModelInfer"].access.resources(infer(ROWS, name="x" * 1000))
    assert (resource.kind, len(resource.name)) == ("Deployment", len("deployments/") + 64)
    assert by_name["ModelInfer"].action == "inference.ModelInfer"
