"""Every RPC of every service, typed: what the clients of the SDK leave out, and what generated code wants.

    version = await hedgerow.rpcs.models.get_model_version(models_pb2.GetModelVersionRequest(name=…))

A test holds the declarations to the contract.
"""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.descriptor import ServiceDescriptor

from hedgerow.client import ServiceClient
from hedgerow.features.v1 import features_pb2
from hedgerow.governance.v1 import governance_pb2
from hedgerow.inference.v1 import inference_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.sdk.calls import ClientStream, Rpcs, ServerStream, Unary
from hedgerow.secrets.v1 import secrets_pb2
from hedgerow.training.v1 import training_pb2


class IngestionRpcs(Rpcs):
    """RPCs of `hedgerow.ingestion.v1.IngestionService`."""

    service = ingestion_pb2.DESCRIPTOR.services_by_name["IngestionService"]

    create_dataset: Unary[ingestion_pb2.CreateDatasetRequest, ingestion_pb2.Dataset]
    get_dataset: Unary[ingestion_pb2.GetDatasetRequest, ingestion_pb2.Dataset]
    list_datasets: Unary[ingestion_pb2.ListDatasetsRequest, ingestion_pb2.ListDatasetsResponse]
    append_records: ClientStream[ingestion_pb2.AppendRecordsRequest, ingestion_pb2.AppendRecordsResponse]
    list_quarantined_records: Unary[
        ingestion_pb2.ListQuarantinedRecordsRequest, ingestion_pb2.ListQuarantinedRecordsResponse
    ]
    open_snapshot: Unary[ingestion_pb2.OpenSnapshotRequest, ingestion_pb2.Snapshot]
    erase_subject: Unary[ingestion_pb2.EraseSubjectRequest, ingestion_pb2.EraseSubjectResponse]


class FeaturesRpcs(Rpcs):
    """RPCs of `hedgerow.features.v1.FeaturesService`."""

    service = features_pb2.DESCRIPTOR.services_by_name["FeaturesService"]

    create_feature_view: Unary[features_pb2.CreateFeatureViewRequest, features_pb2.FeatureView]
    get_feature_view: Unary[features_pb2.GetFeatureViewRequest, features_pb2.FeatureView]
    list_feature_views: Unary[features_pb2.ListFeatureViewsRequest, features_pb2.ListFeatureViewsResponse]
    create_feature_service: Unary[features_pb2.CreateFeatureServiceRequest, features_pb2.FeatureService]
    get_feature_service: Unary[features_pb2.GetFeatureServiceRequest, features_pb2.FeatureService]
    list_feature_services: Unary[features_pb2.ListFeatureServicesRequest, features_pb2.ListFeatureServicesResponse]
    create_training_set: Unary[features_pb2.CreateTrainingSetRequest, features_pb2.TrainingSet]
    get_training_set: Unary[features_pb2.GetTrainingSetRequest, features_pb2.TrainingSet]
    watch_training_set: ServerStream[features_pb2.WatchTrainingSetRequest, features_pb2.TrainingSet]
    read_training_set: ServerStream[features_pb2.ReadTrainingSetRequest, features_pb2.ReadTrainingSetResponse]
    create_materialization: Unary[features_pb2.CreateMaterializationRequest, features_pb2.Materialization]
    get_materialization: Unary[features_pb2.GetMaterializationRequest, features_pb2.Materialization]
    watch_materialization: ServerStream[features_pb2.WatchMaterializationRequest, features_pb2.Materialization]
    get_online_features: Unary[features_pb2.GetOnlineFeaturesRequest, features_pb2.FeatureBlock]
    get_offline_features: Unary[features_pb2.GetOfflineFeaturesRequest, features_pb2.FeatureBlock]
    erase_subject: Unary[features_pb2.EraseSubjectRequest, features_pb2.EraseSubjectResponse]


class TrainingRpcs(Rpcs):
    """RPCs of `hedgerow.training.v1.TrainingService`."""

    service = training_pb2.DESCRIPTOR.services_by_name["TrainingService"]

    create_training_run: Unary[training_pb2.CreateTrainingRunRequest, training_pb2.TrainingRun]
    get_training_run: Unary[training_pb2.GetTrainingRunRequest, training_pb2.TrainingRun]
    list_training_runs: Unary[training_pb2.ListTrainingRunsRequest, training_pb2.ListTrainingRunsResponse]
    watch_training_run: ServerStream[training_pb2.WatchTrainingRunRequest, training_pb2.TrainingRun]
    cancel_training_run: Unary[training_pb2.CancelTrainingRunRequest, training_pb2.TrainingRun]


class ModelsRpcs(Rpcs):
    """RPCs of `hedgerow.models.v1.ModelsService`."""

    service = models_pb2.DESCRIPTOR.services_by_name["ModelsService"]

    list_models: Unary[models_pb2.ListModelsRequest, models_pb2.ListModelsResponse]
    get_model_version: Unary[models_pb2.GetModelVersionRequest, models_pb2.ModelVersion]
    list_model_versions: Unary[models_pb2.ListModelVersionsRequest, models_pb2.ListModelVersionsResponse]
    promote_model_version: Unary[models_pb2.PromoteModelVersionRequest, models_pb2.ModelVersion]
    download_artifact: ServerStream[models_pb2.DownloadArtifactRequest, models_pb2.DownloadArtifactResponse]


class InferenceRpcs(Rpcs):
    """RPCs of `hedgerow.inference.v1.InferenceService`."""

    service = inference_pb2.DESCRIPTOR.services_by_name["InferenceService"]

    create_deployment: Unary[inference_pb2.CreateDeploymentRequest, inference_pb2.Deployment]
    get_deployment: Unary[inference_pb2.GetDeploymentRequest, inference_pb2.Deployment]
    list_deployments: Unary[inference_pb2.ListDeploymentsRequest, inference_pb2.ListDeploymentsResponse]
    predict_entities: Unary[inference_pb2.PredictEntitiesRequest, inference_pb2.PredictEntitiesResponse]
    explain_entities: Unary[inference_pb2.ExplainEntitiesRequest, inference_pb2.ExplainEntitiesResponse]


class SecretsRpcs(Rpcs):
    """RPCs of `hedgerow.secrets.v1.SecretsService`."""

    service = secrets_pb2.DESCRIPTOR.services_by_name["SecretsService"]

    renew_certificate: Unary[secrets_pb2.RenewCertificateRequest, secrets_pb2.Certificate]
    revoke_certificate: Unary[secrets_pb2.RevokeCertificateRequest, secrets_pb2.RevokeCertificateResponse]
    watch_trust: ServerStream[secrets_pb2.WatchTrustRequest, secrets_pb2.TrustState]
    create_data_key: Unary[secrets_pb2.CreateDataKeyRequest, secrets_pb2.DataKey]
    wrap_key: Unary[secrets_pb2.WrapKeyRequest, secrets_pb2.WrapKeyResponse]
    unwrap_key: Unary[secrets_pb2.UnwrapKeyRequest, secrets_pb2.UnwrapKeyResponse]
    get_pseudonym_key: Unary[secrets_pb2.GetPseudonymKeyRequest, secrets_pb2.PseudonymKey]
    sign: Unary[secrets_pb2.SignRequest, secrets_pb2.Signature]
    get_verification_key: Unary[secrets_pb2.GetVerificationKeyRequest, secrets_pb2.VerificationKey]


class GovernanceRpcs(Rpcs):
    """RPCs of `hedgerow.governance.v1.GovernanceService`."""

    service = governance_pb2.DESCRIPTOR.services_by_name["GovernanceService"]

    create_policy_bundle: Unary[governance_pb2.CreatePolicyBundleRequest, governance_pb2.PolicyBundle]
    get_policy_bundle: Unary[governance_pb2.GetPolicyBundleRequest, governance_pb2.PolicyBundle]
    watch_policy_bundle: ServerStream[governance_pb2.WatchPolicyBundleRequest, governance_pb2.PolicyBundle]
    put_audit_segment: Unary[governance_pb2.PutAuditSegmentRequest, governance_pb2.PutAuditSegmentResponse]
    report_audit_head: Unary[governance_pb2.ReportAuditHeadRequest, governance_pb2.ReportAuditHeadResponse]
    export_audit_trail: ServerStream[governance_pb2.ExportAuditTrailRequest, governance_pb2.AuditSegment]
    list_audit_events: Unary[governance_pb2.ListAuditEventsRequest, governance_pb2.ListAuditEventsResponse]
    verify_audit_trail: Unary[governance_pb2.VerifyAuditTrailRequest, governance_pb2.VerifyAuditTrailResponse]
    create_audit_anchor: Unary[governance_pb2.CreateAuditAnchorRequest, governance_pb2.AuditAnchor]
    create_erasure_request: Unary[governance_pb2.CreateErasureRequestRequest, governance_pb2.ErasureRequest]
    get_erasure_request: Unary[governance_pb2.GetErasureRequestRequest, governance_pb2.ErasureRequest]
    list_erasure_requests: Unary[governance_pb2.ListErasureRequestsRequest, governance_pb2.ListErasureRequestsResponse]
    watch_erasure_request: ServerStream[governance_pb2.WatchErasureRequestRequest, governance_pb2.ErasureRequest]


class SuiteRpcs:
    """The RPCs of all services, by service; the training service serves the model registry."""

    def __init__(self, client: Callable[[str, ServiceDescriptor], ServiceClient], purpose: str) -> None:
        self.ingestion = IngestionRpcs(client("ingestion", IngestionRpcs.service), purpose)
        self.features = FeaturesRpcs(client("features", FeaturesRpcs.service), purpose)
        self.training = TrainingRpcs(client("training", TrainingRpcs.service), purpose)
        self.models = ModelsRpcs(client("training", ModelsRpcs.service), purpose)
        self.inference = InferenceRpcs(client("inference", InferenceRpcs.service), purpose)
        self.secrets = SecretsRpcs(client("secrets", SecretsRpcs.service), purpose)
        self.governance = GovernanceRpcs(client("governance", GovernanceRpcs.service), purpose)
