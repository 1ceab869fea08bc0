"""Clients of the training service: training runs, and the model registry it serves."""

import uuid
from collections.abc import AsyncIterator

from hedgerow.models.v1 import models_pb2
from hedgerow.sdk.facade import WORK_SECONDS, WRITE_SECONDS, Facade, Progress
from hedgerow.training.v1 import training_pb2 as pb

_Run = pb.TrainingRun


class Training(Facade):
    """Training runs."""

    async def create_training_run(self, spec: pb.TrainingSpec, *, request_id: str = "") -> pb.TrainingRun:
        """Starts a training run; the same request id starts one."""
        request = pb.CreateTrainingRunRequest(spec=spec, request_id=request_id or str(uuid.uuid4()))
        run: pb.TrainingRun = await self._call("CreateTrainingRun", request, timeout=WRITE_SECONDS)
        return run

    async def get_training_run(self, name: str) -> pb.TrainingRun:
        """Returns `trainingRuns/{training_run}`."""
        run: pb.TrainingRun = await self._call("GetTrainingRun", pb.GetTrainingRunRequest(name=name))
        return run

    def list_training_runs(self) -> AsyncIterator[pb.TrainingRun]:
        """Yields all training runs, newest first."""
        return self._pages("ListTrainingRuns", pb.ListTrainingRunsRequest(), "training_runs")

    async def cancel_training_run(self, name: str) -> pb.TrainingRun:
        """Cancels a training run and ends its ranks."""
        run: pb.TrainingRun = await self._call(
            "CancelTrainingRun", pb.CancelTrainingRunRequest(name=name), timeout=WRITE_SECONDS
        )
        return run

    async def wait_for_training_run(
        self, name: str, *, timeout: float = WORK_SECONDS, progress: Progress | None = None
    ) -> pb.TrainingRun:
        """Returns a run once it registered a version; raises FailedPreconditionError with the reason otherwise."""
        done: pb.TrainingRun = await self._wait(
            "WatchTrainingRun",
            pb.WatchTrainingRunRequest(name=name),
            good=_Run.STATE_SUCCEEDED,
            bad=[_Run.STATE_FAILED, _Run.STATE_CANCELLED],
            timeout=timeout,
            progress=progress,
        )
        return done


class Models(Facade):
    """Model versions with their evidence."""

    def list_models(self) -> AsyncIterator[models_pb2.Model]:
        """Yields all models by name."""
        return self._pages("ListModels", models_pb2.ListModelsRequest(), "models")

    async def get_model_version(self, name: str) -> models_pb2.ModelVersion:
        """Returns `models/{model}/versions/{version or alias}`."""
        version: models_pb2.ModelVersion = await self._call(
            "GetModelVersion", models_pb2.GetModelVersionRequest(name=name)
        )
        return version

    def list_model_versions(self, model: str) -> AsyncIterator[models_pb2.ModelVersion]:
        """Yields the versions of a model, newest first."""
        return self._pages("ListModelVersions", models_pb2.ListModelVersionsRequest(model=model), "model_versions")

    async def promote(self, name: str, alias: str) -> models_pb2.ModelVersion:
        """Points an alias at a version; raises FailedPreconditionError (GATE_NOT_PASSED) when a gate did not pass."""
        request = models_pb2.PromoteModelVersionRequest(name=name, alias=alias)
        version: models_pb2.ModelVersion = await self._call("PromoteModelVersion", request, timeout=WRITE_SECONDS)
        return version
