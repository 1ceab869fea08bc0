"""Entries of training, models and inference, the Open Inference Protocol included."""

from __future__ import annotations

from typing import Any, Final

from tritonclient.grpc import service_pb2 as oip

from hedgerow.inference.v1 import inference_pb2 as inference
from hedgerow.models.v1 import models_pb2 as models
from hedgerow.training.v1 import training_pb2 as training
from tests.e2e.entries.entry import CREDIT, FALSE_NAME, MIB, NONE, UUID, Entry, listed, named, page_faults
from tests.support import gym

_UNOFFERED: Final = "UNIMPLEMENTED METHOD_UNIMPLEMENTED"


def _spec(**changes: Any) -> training.TrainingSpec:
    spec = gym.training_spec()
    for field, value in changes.items():
        setattr(spec, field, value)
    return spec


_run, _promote = training.CreateTrainingRunRequest, models.PromoteModelVersionRequest
TRAINING = {
    "CreateTrainingRun": Entry(
        "ben",
        _run(spec=_spec(training_set=f"trainingSets/{NONE}"), request_id=UUID),
        [
            (_run(spec=_spec(training_set=FALSE_NAME), request_id=UUID), "spec.training_set"),
            (_run(spec=_spec(model=FALSE_NAME), request_id=UUID), "spec.model"),
            (_run(spec=_spec(world_size=9), request_id=UUID), "spec.world_size"),
            (_run(spec=_spec(learning_rate=float("nan")), request_id=UUID), "spec.learning_rate"),
            (_run(spec=_spec(), request_id="1"), "request_id"),
        ],
        purpose=gym.PURPOSE,
        used=_run(spec=_spec(), request_id=UUID),
    ),
    "GetTrainingRun": named("ben", training.GetTrainingRunRequest, "trainingRuns"),
    "ListTrainingRuns": listed("ben", training.ListTrainingRunsRequest),
    "WatchTrainingRun": named("ben", training.WatchTrainingRunRequest, "trainingRuns"),
    "CancelTrainingRun": named("ben", training.CancelTrainingRunRequest, "trainingRuns"),
}
MODELS = {
    "ListModels": listed("ben", models.ListModelsRequest),
    "GetModelVersion": named("ben", models.GetModelVersionRequest, f"models/{NONE}/versions"),
    "ListModelVersions": Entry(
        "ben",
        models.ListModelVersionsRequest(model=f"models/{NONE}"),
        [
            (models.ListModelVersionsRequest(model=FALSE_NAME), "model"),
            *page_faults(models.ListModelVersionsRequest, model=gym.MODEL),
        ],
    ),
    "PromoteModelVersion": Entry(
        "ben",
        _promote(name=f"models/{NONE}/versions/1", alias="champion"),
        [
            (_promote(name=FALSE_NAME, alias="champion"), "name"),
            (_promote(name=f"{gym.MODEL}/versions/1", alias=FALSE_NAME), "alias"),
        ],
    ),
    "DownloadArtifact": named("ben", models.DownloadArtifactRequest, f"models/{NONE}/versions"),
}

_deploy, _predict, _explain = (
    inference.CreateDeploymentRequest, inference.PredictEntitiesRequest, inference.ExplainEntitiesRequest,
)  # fmt: skip
INFERENCE = {
    "CreateDeployment": Entry(
        "ben",
        _deploy(deployment_id=NONE, model_version=f"models/{NONE}/versions/1"),
        [
            (_deploy(deployment_id=FALSE_NAME, model_version=f"{gym.MODEL}/versions/1"), "deployment_id"),
            (_deploy(deployment_id=NONE, model_version=FALSE_NAME), "model_version"),
        ],
        purpose=CREDIT,
    ),
    "GetDeployment": named("ana", inference.GetDeploymentRequest, "deployments"),
    "ListDeployments": listed("ana", inference.ListDeploymentsRequest),
    "PredictEntities": Entry(
        "creditapp",
        _predict(deployment=f"deployments/{NONE}", entity_keys=["1"]),
        [
            (_predict(deployment=FALSE_NAME, entity_keys=["1"]), "deployment"),
            (_predict(deployment=gym.DEPLOYMENT), "entity_keys"),
            (_predict(deployment=gym.DEPLOYMENT, entity_keys=["1", ""]), "entity_keys[1]"),
        ],
        purpose=gym.PURPOSE,
        used=_predict(deployment=gym.DEPLOYMENT, entity_keys=["1"]),
    ),
    "ExplainEntities": Entry(
        "creditapp",
        _explain(deployment=f"deployments/{NONE}", entity_keys=["1"]),
        [
            (_explain(deployment=FALSE_NAME, entity_keys=["1"]), "deployment"),
            (_explain(deployment=gym.DEPLOYMENT), "entity_keys"),
            (_explain(deployment=gym.DEPLOYMENT, entity_keys=["1"], top_reasons=51), "top_reasons"),
        ],
        purpose=gym.PURPOSE,
        used=_explain(deployment=gym.DEPLOYMENT, entity_keys=["1"]),
    ),
}

_infer = oip.ModelInferRequest
_MODEL: Final = gym.DEPLOYMENT.partition("/")[2]
OPEN_INFERENCE = {
    # Whether a model is ready is an answer, also of one that does not exist.
    "ServerLive": Entry("ana", oip.ServerLiveRequest(), answer=""),
    "ServerReady": Entry("ana", oip.ServerReadyRequest(), answer=""),
    "ServerMetadata": Entry("ana", oip.ServerMetadataRequest(), answer=""),
    "ModelReady": Entry("creditapp", oip.ModelReadyRequest(name=NONE), answer="OK"),
    "ModelMetadata": Entry("creditapp", oip.ModelMetadataRequest(name=NONE)),
    "ModelConfig": Entry("creditapp", oip.ModelConfigRequest(name=NONE)),
    "ModelStatistics": Entry("creditapp", oip.ModelStatisticsRequest(name=NONE)),
    "RepositoryIndex": Entry("creditapp", oip.RepositoryIndexRequest(), answer=""),
    "ModelInfer": Entry(
        "creditapp", _infer(model_name=NONE), purpose=gym.PURPOSE, limit=16 * MIB, used=_infer(model_name=_MODEL)
    ),
    # A request of a stream that fails is answered, and the stream goes on.
    "ModelStreamInfer": Entry(
        "creditapp",
        _infer(model_name=NONE),
        answer="OK",
        purpose=gym.PURPOSE,
        limit=16 * MIB,
        used=_infer(model_name=_MODEL),
    ),
    "RepositoryModelLoad": Entry("operator", oip.RepositoryModelLoadRequest(model_name=NONE), answer=_UNOFFERED),
    "RepositoryModelUnload": Entry("operator", oip.RepositoryModelUnloadRequest(model_name=NONE), answer=_UNOFFERED),
} | {
    name: Entry("operator", getattr(oip, f"{name}Request")(), answer=_UNOFFERED)
    for name in (
        "SystemSharedMemoryStatus", "SystemSharedMemoryRegister", "SystemSharedMemoryUnregister",
        "CudaSharedMemoryStatus", "CudaSharedMemoryRegister", "CudaSharedMemoryUnregister", "TraceSetting", "LogSettings",
    )
}  # fmt: skip
