"""The Open Inference Protocol with Triton's extensions, so that an unmodified ``tritonclient`` works.

A deployment is a model of its id. Its contract: input ``features`` FP64 [-1, n], output ``probability`` FP64 [-1, 1].
Purpose and request id travel as metadata, as everywhere. Methods that would change the server, or that reach into the
memory of one machine, are UNIMPLEMENTED and say what to use instead.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from tritonclient.grpc import model_config_pb2, service_pb2

from hedgerow.errors import HedgerowError, InvalidArgumentError, UnimplementedError
from libs.rpc import MIB, SUITE, Access, Audit, Call, Resource, ResourceAttributes, Service
from libs.telemetry import fault_location, get_logger
from services.inference import tensors
from services.inference.batching import BatchStatistics
from services.inference.deployment import Deployment, Deployments

SERVER_NAME: Final = "hedgerow"
SERVER_VERSION: Final = "1"
PLATFORM: Final = "onnxruntime_onnx"
EXTENSIONS: Final = ("model_configuration", "model_repository", "statistics")
FINAL_RESPONSE: Final = "triton_final_response"
_EMPTY_FINAL_RESPONSE: Final = "triton_enable_empty_final_response"
_TIMEOUT: Final = "timeout"
_CONFIG_TYPES: Final = {"FP64": model_config_pb2.TYPE_FP64}

log = get_logger()


def _not_offered(instead: str) -> Callable[[Any, Any, Call], Awaitable[Any]]:
    """Return a handler that refuses and says what to use instead."""

    async def refuse(self: Any, request: Any, call: Call) -> Any:
        raise UnimplementedError(instead)

    return refuse


_SHARED_MEMORY: Final = (
    "shared memory is not offered, because callers are on other machines; send tensors in the request"
)


class OpenInferenceServicer:
    """Handles ``inference.GRPCInferenceService``."""

    def __init__(
        self, deployments: Deployments, *, stopping: Callable[[], bool], request_rows: int, default_seconds: float
    ) -> None:
        """Prepare the handlers.

        Args:
            deployments: what is served.
            stopping: whether the shutdown has begun.
            request_rows: the most rows of one request.
            default_seconds: time for one request of a stream, and for a call without a deadline.
        """
        self._deployments = deployments
        self._stopping = stopping
        self._request_rows = request_rows
        self._default_seconds = default_seconds

    # ---- the server

    async def server_live(self, request: Any, call: Call) -> Any:
        """Return that the process answers."""
        return service_pb2.ServerLiveResponse(live=True)

    async def server_ready(self, request: Any, call: Call) -> Any:
        """Return whether everything that is deployed is loaded and the server is not shutting down."""
        return service_pb2.ServerReadyResponse(ready=not self._deployments.pending() and not self._stopping())

    async def server_metadata(self, request: Any, call: Call) -> Any:
        """Return the server's name, version and extensions."""
        return service_pb2.ServerMetadataResponse(name=SERVER_NAME, version=SERVER_VERSION, extensions=EXTENSIONS)

    async def repository_index(self, request: Any, call: Call) -> Any:
        """Return every deployment with its version and state, or those that are ready."""
        response = service_pb2.RepositoryIndexResponse()
        for deployment in self._deployments.serving():
            record = deployment.record
            response.models.add(name=record.deployment_id, version=record.version, state="READY")
        for name in () if request.ready else self._deployments.pending():
            response.models.add(name=name, state="LOADING")
        return response

    # ---- one model

    async def model_ready(self, request: Any, call: Call) -> Any:
        """Return whether a model answers; an unknown one does not."""
        try:
            self._deployments.find(request.name, request.version)
        except HedgerowError:
            return service_pb2.ModelReadyResponse(ready=False)
        return service_pb2.ModelReadyResponse(ready=not self._stopping())

    async def model_metadata(self, request: Any, call: Call) -> Any:
        """Return a model's version and tensors; NOT_FOUND when unknown, UNAVAILABLE while it loads."""
        deployment = self._deployments.find(request.name, request.version)
        response = service_pb2.ModelMetadataResponse(
            name=deployment.record.deployment_id, versions=[deployment.record.version], platform=PLATFORM
        )
        for specs, described in (
            (deployment.model.inputs, response.inputs),
            (deployment.model.outputs, response.outputs),
        ):
            for spec in specs:
                described.add(name=spec.name, datatype=spec.datatype, shape=spec.shape)
        return response

    async def model_config(self, request: Any, call: Call) -> Any:
        """Return a model's configuration in Triton's form; fails as model_metadata."""
        deployment = self._deployments.find(request.name, request.version)
        config = model_config_pb2.ModelConfig(
            name=deployment.record.deployment_id,
            platform=PLATFORM,
            backend="onnxruntime",
            max_batch_size=self._request_rows,
            dynamic_batching=model_config_pb2.ModelDynamicBatching(),
        )
        for specs, described in ((deployment.model.inputs, config.input), (deployment.model.outputs, config.output)):
            for spec in specs:
                # Triton leaves the batch dimension out of the configuration.
                described.add(name=spec.name, data_type=_CONFIG_TYPES[spec.datatype], dims=spec.shape[1:])
        return service_pb2.ModelConfigResponse(config=config)

    async def model_statistics(self, request: Any, call: Call) -> Any:
        """Return the counts of one model, or of all when the name is empty; fails as model_metadata."""
        if request.name:
            wanted = [self._deployments.find(request.name, request.version)]
        else:
            wanted = list(self._deployments.serving())
        response = service_pb2.ModelStatisticsResponse()
        for deployment in wanted:
            _add_statistics(response, deployment, deployment.model.batcher.statistics)
        return response

    # ---- predictions

    async def model_infer(self, request: Any, call: Call) -> Any:
        """Predict for the rows of a request.

        Raises:
            NotFoundError, UnavailableError: as ``Deployments.find``.
            InvalidArgumentError: TENSOR_INVALID, or a parameter that is not understood.
            ResourceExhaustedError: the queue is full.
        """
        return await self._infer(request, call.time_left())

    async def model_stream_infer(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        """Predict for each request of a stream, in order; a request that fails is answered and the stream goes on.

        Each request has one answer, so that answer carries ``triton_final_response``. Cancelling the stream drops what
        has not run yet.
        """
        async for request in requests:
            try:
                response = await self._infer(request, self._default_seconds)
            except HedgerowError as error:
                yield _stream_error(request, f"{error.code_name}: {error.message}")
            except Exception as error:
                log.error(
                    "stream_request_failed",
                    request_id=call.request_id,
                    error=type(error).__name__,
                    where=fault_location(error),
                )
                yield _stream_error(request, f"INTERNAL: the server failed; its log has request id {call.request_id}")
            else:
                response.parameters[FINAL_RESPONSE].bool_param = True
                yield service_pb2.ModelStreamInferResponse(infer_response=response)

    async def _infer(self, request: Any, seconds: float) -> Any:
        deployment = self._deployments.find(request.model_name, request.model_version)
        model, record = deployment.model, deployment.record
        if request.parameters:
            seconds = min(seconds, _checked_parameters(request))
        (wanted,) = tensors.check_outputs(request, model.outputs)
        arrays, raw = tensors.decode_inputs(request, model.inputs)
        rows = arrays[model.inputs[0].name]
        if len(rows) > self._request_rows:
            raise tensors.tensor_error(
                "inputs[0].shape", model.inputs[0].name, f"at most {self._request_rows} rows", f"{len(rows)} rows"
            )
        answer = await model.predict(rows, expires_at=asyncio.get_running_loop().time() + seconds)
        response = service_pb2.ModelInferResponse(
            model_name=record.deployment_id, model_version=record.version, id=request.id
        )
        tensors.add_output(response, wanted, answer, raw=raw)
        return response

    # ---- not offered

    repository_model_load = _not_offered("models are loaded by hedgerow.inference.v1.InferenceService/CreateDeployment")
    repository_model_unload = _not_offered("a deployment is not unloaded; CreateDeployment replaces what it serves")
    system_shared_memory_status = _not_offered(_SHARED_MEMORY)
    system_shared_memory_register = _not_offered(_SHARED_MEMORY)
    system_shared_memory_unregister = _not_offered(_SHARED_MEMORY)
    cuda_shared_memory_status = _not_offered(_SHARED_MEMORY)
    cuda_shared_memory_register = _not_offered(_SHARED_MEMORY)
    cuda_shared_memory_unregister = _not_offered(_SHARED_MEMORY)
    trace_setting = _not_offered("traces are OpenTelemetry's: send a sampled traceparent")
    log_settings = _not_offered("log settings are configuration: HEDGEROW_LOG_LEVEL")


def _checked_parameters(request: Any) -> float:
    """Return the seconds that a request's parameters allow it; infinite when they say nothing.

    Parameters of Triton that change the answer are understood or refused; a caller's own are left alone.

    Raises:
        InvalidArgumentError: a parameter has the wrong type, or starts with ``triton_`` and is unknown.
        UnimplementedError: the request belongs to a sequence.
    """
    seconds = float("inf")
    for name, value in request.parameters.items():
        kind = value.WhichOneof("parameter_choice")
        if name == _EMPTY_FINAL_RESPONSE:
            if kind != "bool_param":
                raise _parameter_error(name, "expected a bool")
        elif name == _TIMEOUT:
            microseconds = getattr(value, kind) if kind in ("int64_param", "uint64_param") else -1
            if microseconds < 0:
                raise _parameter_error(name, "expected microseconds, an integer of 0 or more")
            seconds = microseconds / 1e6 if microseconds else seconds
        elif name in ("sequence_id", "sequence_start", "sequence_end"):
            raise UnimplementedError("sequences are not offered: the models here keep no state between requests")
        elif name.startswith("triton_"):
            raise _parameter_error(name, f"unknown; {_EMPTY_FINAL_RESPONSE} is the only one")
    return seconds


def _parameter_error(name: str, what: str) -> InvalidArgumentError:
    shown = name[:64]
    return InvalidArgumentError(f"parameter {shown!r}: {what}", fields={f"parameters[{shown}]": what})


def _stream_error(request: Any, message: str) -> Any:
    response = service_pb2.ModelInferResponse(id=request.id)
    response.parameters[FINAL_RESPONSE].bool_param = True
    return service_pb2.ModelStreamInferResponse(error_message=message, infer_response=response)


def _add_statistics(response: Any, deployment: Deployment, counts: BatchStatistics) -> None:
    model = response.model_stats.add(
        name=deployment.record.deployment_id,
        version=deployment.record.version,
        last_inference=int(counts.last_answer_s * 1000),
        inference_count=counts.rows,
        execution_count=counts.batches,
    )
    durations = model.inference_stats
    durations.success.count = counts.requests
    durations.success.ns = counts.queue_ns + counts.compute_ns
    durations.fail.count = counts.failures
    durations.queue.count = durations.compute_infer.count = counts.requests
    durations.queue.ns, durations.compute_infer.ns = counts.queue_ns, counts.compute_ns
    for rows, (batches, took_ns) in sorted(counts.batch_sizes.items()):
        batch = model.batch_stats.add(batch_size=rows)
        batch.compute_infer.count, batch.compute_infer.ns = batches, took_ns


def _model(name: str) -> list[Resource]:
    # Cut to just more than the longest id: a name that is too long stays unknown, and stays small in cache and audit.
    return [Resource("Deployment", f"deployments/{name[:64]}")]


def _access() -> dict[str, Access]:
    # Probes are not audited, and are answered to the last: a router must hear of the shutdown.
    probe, read = Audit.NONE, Audit.BUFFERED
    server = {"ServerLive": probe, "ServerReady": probe, "ServerMetadata": read, "RepositoryIndex": read}
    access = {
        name: Access(lambda r: [SUITE], audit, deadline_required=False, always_open=audit is probe)
        for name, audit in server.items()
    }
    for name, audit in {"ModelReady": probe, "ModelMetadata": read, "ModelConfig": read}.items():
        access[name] = Access(lambda r: _model(r.name), audit, deadline_required=False, always_open=audit is probe)
    # No name means every model: the whole suite is asked about.
    access["ModelStatistics"] = Access(
        lambda r: _model(r.name) if r.name else [SUITE], Audit.BUFFERED, deadline_required=False
    )
    for name in ("ModelInfer", "ModelStreamInfer"):
        access[name] = Access(
            lambda r: _model(r.model_name), Audit.BUFFERED, deadline_required=False, max_message_bytes=16 * MIB
        )
    for name in ("RepositoryModelLoad", "RepositoryModelUnload"):
        access[name] = Access(lambda r: _model(r.model_name), deadline_required=False)
    described = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    for name in itertools.filterfalse(access.__contains__, (method.name for method in described.methods)):
        access[name] = Access(lambda r: [SUITE], deadline_required=False)
    return access


def rpc_service(
    servicer: OpenInferenceServicer, describe: Callable[[Resource], Awaitable[ResourceAttributes]]
) -> Service:
    """Register the handlers.

    Args:
        servicer: has them.
        describe: the attributes of a resource.
    """
    return Service(
        descriptor=service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"],
        servicer=servicer,
        area="inference",
        access=_access(),
        describe=describe,
    )
