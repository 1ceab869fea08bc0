"""Client of the features service."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from google.protobuf import timestamp_pb2

from hedgerow.features.v1 import features_pb2 as pb
from hedgerow.sdk import arrow
from hedgerow.sdk.facade import WORK_SECONDS, WRITE_SECONDS, Facade, Progress

_Set = pb.TrainingSet
_Write = pb.Materialization


class Features(Facade):
    """Feature views, training sets and the online store."""

    async def create_feature_view(self, feature_view_id: str, feature_view: pb.FeatureView) -> pb.FeatureView:
        """Creates a feature view."""
        request = pb.CreateFeatureViewRequest(feature_view_id=feature_view_id, feature_view=feature_view)
        view: pb.FeatureView = await self._call("CreateFeatureView", request, timeout=WRITE_SECONDS)
        return view

    async def get_feature_view(self, name: str) -> pb.FeatureView:
        """Returns `featureViews/{feature_view}`."""
        view: pb.FeatureView = await self._call("GetFeatureView", pb.GetFeatureViewRequest(name=name))
        return view

    def list_feature_views(self) -> AsyncIterator[pb.FeatureView]:
        """Yields all feature views by name."""
        return self._pages("ListFeatureViews", pb.ListFeatureViewsRequest(), "feature_views")

    async def create_feature_service(self, feature_service_id: str, service: pb.FeatureService) -> pb.FeatureService:
        """Creates a feature service."""
        request = pb.CreateFeatureServiceRequest(feature_service_id=feature_service_id, feature_service=service)
        created: pb.FeatureService = await self._call("CreateFeatureService", request, timeout=WRITE_SECONDS)
        return created

    async def get_feature_service(self, name: str) -> pb.FeatureService:
        """Returns `featureServices/{feature_service}`."""
        service: pb.FeatureService = await self._call("GetFeatureService", pb.GetFeatureServiceRequest(name=name))
        return service

    def list_feature_services(self) -> AsyncIterator[pb.FeatureService]:
        """Yields all feature services by name."""
        return self._pages("ListFeatureServices", pb.ListFeatureServicesRequest(), "feature_services")

    async def create_training_set(self, training_set_id: str, training_set: pb.TrainingSet) -> pb.TrainingSet:
        """Starts building a training set."""
        request = pb.CreateTrainingSetRequest(training_set_id=training_set_id, training_set=training_set)
        created: pb.TrainingSet = await self._call("CreateTrainingSet", request, timeout=WRITE_SECONDS)
        return created

    async def get_training_set(self, name: str) -> pb.TrainingSet:
        """Returns `trainingSets/{training_set}`."""
        training_set: pb.TrainingSet = await self._call("GetTrainingSet", pb.GetTrainingSetRequest(name=name))
        return training_set

    async def wait_for_training_set(
        self, name: str, *, timeout: float = WORK_SECONDS, progress: Progress | None = None
    ) -> pb.TrainingSet:
        """Returns a training set once it is built; raises FailedPreconditionError with the reason when it is not."""
        done: pb.TrainingSet = await self._wait(
            "WatchTrainingSet",
            pb.WatchTrainingSetRequest(name=name),
            good=_Set.STATE_SUCCEEDED,
            bad=[_Set.STATE_FAILED],
            timeout=timeout,
            progress=progress,
        )
        return done

    async def read_training_set(self, name: str, *, timeout: float = WRITE_SECONDS) -> pa.Table:
        """Returns the rows of a training set: entity, as_of_time, label and one float64 column per feature."""
        request = pb.ReadTrainingSetRequest(name=name)
        stream = self._client.stream("ReadTrainingSet", request, timeout=timeout, purpose=self._purpose)
        return pa.concat_tables([arrow.from_message(part.arrow_ipc) async for part in stream])

    async def create_materialization(self, feature_service: str, as_of: datetime | None = None) -> pb.Materialization:
        """Starts writing the newest values of a feature service to the online store."""
        request = pb.CreateMaterializationRequest(feature_service=feature_service, as_of_time=_timestamp(as_of))
        created: pb.Materialization = await self._call("CreateMaterialization", request, timeout=WRITE_SECONDS)
        return created

    async def get_materialization(self, name: str) -> pb.Materialization:
        """Returns `materializations/{materialization}`."""
        written: pb.Materialization = await self._call("GetMaterialization", pb.GetMaterializationRequest(name=name))
        return written

    async def wait_for_materialization(
        self, name: str, *, timeout: float = WORK_SECONDS, progress: Progress | None = None
    ) -> pb.Materialization:
        """Returns a materialization once it is written; raises FailedPreconditionError when it is not."""
        done: pb.Materialization = await self._wait(
            "WatchMaterialization",
            pb.WatchMaterializationRequest(name=name),
            good=_Write.STATE_SUCCEEDED,
            bad=[_Write.STATE_FAILED],
            timeout=timeout,
            progress=progress,
        )
        return done

    async def get_online_features(self, feature_service: str, entity_keys: Sequence[str]) -> pb.FeatureBlock:
        """Reads features of 1 to 1,000 entities from the online store."""
        request = pb.GetOnlineFeaturesRequest(feature_service=feature_service, entity_keys=entity_keys)
        block: pb.FeatureBlock = await self._call("GetOnlineFeatures", request)
        return block

    async def get_offline_features(
        self, feature_service: str, entity_keys: Sequence[str], as_of: datetime
    ) -> pb.FeatureBlock:
        """Computes features of 1 to 1,000 entities from the lake as of a time."""
        request = pb.GetOfflineFeaturesRequest(
            feature_service=feature_service, entity_keys=entity_keys, as_of_time=_timestamp(as_of)
        )
        block: pb.FeatureBlock = await self._call("GetOfflineFeatures", request, timeout=WRITE_SECONDS)
        return block


def matrix(block: pb.FeatureBlock) -> npt.NDArray[np.float64]:
    """Returns the values of a block as float64 of shape (entities, features); NaN stands for null."""
    return np.frombuffer(block.values, dtype="<f8").reshape(len(block.statuses), len(block.feature_names))


def _timestamp(time: datetime | None) -> timestamp_pb2.Timestamp | None:
    if time is None:
        return None
    timestamp = timestamp_pb2.Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
