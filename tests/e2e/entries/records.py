"""Entries of ingestion and features."""

from __future__ import annotations

from hedgerow.features.v1 import features_pb2 as features
from hedgerow.ingestion.v1 import ingestion_pb2 as ingestion
from tests.e2e.entries.entry import FALSE_NAME, LATER, MIB, NONE, PSEUDONYM, UUID, Entry, listed, named, page_faults
from tests.support import gym

_append, _snapshot, _quarantined = (
    ingestion.AppendRecordsRequest, ingestion.OpenSnapshotRequest, ingestion.ListQuarantinedRecordsRequest,
)  # fmt: skip
INGESTION = {
    "CreateDataset": Entry(
        "ana",
        ingestion.CreateDatasetRequest(dataset_id=NONE),
        [
            (ingestion.CreateDatasetRequest(dataset_id=FALSE_NAME), "dataset_id"),
            (ingestion.CreateDatasetRequest(dataset_id=NONE), "contract.columns"),
        ],
        answer="INVALID_ARGUMENT FIELD_INVALID",
    ),
    "GetDataset": named("ana", ingestion.GetDatasetRequest, "datasets"),
    "ListDatasets": listed("ana", ingestion.ListDatasetsRequest),
    "AppendRecords": Entry(
        "ana",
        _append(dataset=f"datasets/{NONE}", request_id=UUID),
        [
            (_append(dataset=FALSE_NAME, request_id=UUID), "dataset"),
            (_append(dataset=gym.VISITS, request_id="1"), "request_id"),
        ],
        limit=16 * MIB + 1024,
    ),
    "ListQuarantinedRecords": Entry(
        "ana",
        _quarantined(dataset=f"datasets/{NONE}"),
        [(_quarantined(dataset=FALSE_NAME), "dataset"), *page_faults(_quarantined, dataset=gym.VISITS)],
    ),
    "OpenSnapshot": Entry(
        "ana",
        _snapshot(dataset=f"datasets/{NONE}"),
        [
            (_snapshot(dataset=FALSE_NAME), "dataset"),
            (_snapshot(dataset=gym.VISITS, version=-1), "version"),
            (_snapshot(dataset=gym.VISITS, columns=["nothing"]), "columns[0]"),
        ],
        purpose=gym.PURPOSE,
        used=_snapshot(dataset=gym.VISITS),
    ),
    "EraseSubject": Entry(
        "service/governance",
        ingestion.EraseSubjectRequest(domain=NONE, pseudonym=PSEUDONYM, erasure_request=f"erasureRequests/{NONE}"),
        [
            (ingestion.EraseSubjectRequest(domain=NONE, pseudonym=PSEUDONYM, erasure_request="1"), "erasure_request"),
            (
                ingestion.EraseSubjectRequest(domain=NONE, pseudonym="x", erasure_request="erasureRequests/1"),
                "pseudonym",
            ),
        ],
        answer="",
    ),
}

_set, _view, _service = (
    features.CreateTrainingSetRequest, features.CreateFeatureViewRequest, features.CreateFeatureServiceRequest,
)  # fmt: skip
_online, _offline = features.GetOnlineFeaturesRequest, features.GetOfflineFeaturesRequest
FEATURES = {
    "CreateFeatureView": Entry(
        "ana",
        _view(feature_view_id=NONE, feature_view={"dataset": f"datasets/{NONE}", "entity_column": "member"}),
        [
            (_view(feature_view_id=FALSE_NAME, feature_view={"dataset": gym.VISITS}), "feature_view_id"),
            (_view(feature_view_id=NONE, feature_view={"dataset": FALSE_NAME}), "feature_view.dataset"),
        ],
    ),
    "GetFeatureView": named("ana", features.GetFeatureViewRequest, "featureViews"),
    "ListFeatureViews": listed("ana", features.ListFeatureViewsRequest),
    "CreateFeatureService": Entry(
        "ana",
        _service(feature_service_id=NONE, feature_service={"feature_views": [f"featureViews/{NONE}"]}),
        [
            (_service(feature_service_id=FALSE_NAME), "feature_service_id"),
            (
                _service(feature_service_id=NONE, feature_service={"feature_views": [FALSE_NAME]}),
                "feature_service.feature_views[0]",
            ),
        ],
    ),
    "GetFeatureService": named("ana", features.GetFeatureServiceRequest, "featureServices"),
    "ListFeatureServices": listed("ana", features.ListFeatureServicesRequest),
    "CreateTrainingSet": Entry(
        "ben",
        _set(
            training_set_id=NONE,
            training_set={
                "feature_service": f"featureServices/{NONE}",
                "cutoffs": gym.training_set_message().cutoffs,
            },
        ),
        [
            (_set(training_set_id=FALSE_NAME, training_set=gym.training_set_message()), "training_set_id"),
            (_set(training_set_id=NONE, training_set={"feature_service": FALSE_NAME}), "training_set.feature_service"),
            (_set(training_set_id=NONE, training_set={"feature_service": gym.SERVICE}), "training_set.cutoffs"),
        ],
        purpose=gym.PURPOSE,
        used=_set(training_set_id=NONE, training_set=gym.training_set_message()),
    ),
    "GetTrainingSet": named("ben", features.GetTrainingSetRequest, "trainingSets"),
    "WatchTrainingSet": named("ben", features.WatchTrainingSetRequest, "trainingSets"),
    "ReadTrainingSet": named(
        "ben",
        features.ReadTrainingSetRequest,
        "trainingSets",
        purpose=gym.PURPOSE,
        used=features.ReadTrainingSetRequest(name="trainingSets/gym_quitting"),
    ),
    "CreateMaterialization": named(
        "ana",
        features.CreateMaterializationRequest,
        "featureServices",
        "feature_service",
        purpose=gym.PURPOSE,
        used=features.CreateMaterializationRequest(feature_service=gym.SERVICE),
    ),
    "GetMaterialization": named("ana", features.GetMaterializationRequest, "materializations"),
    "WatchMaterialization": named("ana", features.WatchMaterializationRequest, "materializations"),
    "GetOnlineFeatures": Entry(
        "creditapp",
        _online(feature_service=f"featureServices/{NONE}", entity_keys=["1"]),
        [
            (_online(feature_service=FALSE_NAME, entity_keys=["1"]), "feature_service"),
            (_online(feature_service=gym.SERVICE), "entity_keys"),
        ],
        purpose=gym.PURPOSE,
        used=_online(feature_service=gym.SERVICE, entity_keys=["1"]),
    ),
    "GetOfflineFeatures": Entry(
        "ben",
        _offline(feature_service=f"featureServices/{NONE}", entity_keys=["1"], as_of_time=LATER),
        [
            (_offline(feature_service=FALSE_NAME, entity_keys=["1"], as_of_time=LATER), "feature_service"),
            (_offline(feature_service=gym.SERVICE, as_of_time=LATER), "entity_keys"),
            (_offline(feature_service=gym.SERVICE, entity_keys=["1"]), "as_of_time"),
        ],
        purpose=gym.PURPOSE,
        used=_offline(feature_service=gym.SERVICE, entity_keys=["1"], as_of_time=LATER),
    ),
    "EraseSubject": Entry(
        "service/governance",
        features.EraseSubjectRequest(domain=NONE, pseudonym=PSEUDONYM, erasure_request=f"erasureRequests/{NONE}"),
        [
            (features.EraseSubjectRequest(domain=NONE, pseudonym=PSEUDONYM, erasure_request="1"), "erasure_request"),
            (
                features.EraseSubjectRequest(domain=NONE, pseudonym="x", erasure_request="erasureRequests/1"),
                "pseudonym",
            ),
        ],
        answer="",
    ),
}
