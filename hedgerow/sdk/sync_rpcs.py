"""Every RPC of every service, typed, for programs without an event loop; `rpcs.py` is the same for those with one."""

from __future__ import annotations

from hedgerow.features.v1 import features_pb2
from hedgerow.governance.v1 import governance_pb2
from hedgerow.inference.v1 import inference_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.models.v1 import models_pb2
from hedgerow.sdk.calls import SyncClientStream, SyncRpcs, SyncServerStream, SyncUnary
from hedgerow.sdk.portal import Portal
from hedgerow.sdk.rpcs import SuiteRpcs
from hedgerow.secrets.v1 import secrets_pb2
from hedgerow.training.v1 import training_pb2


class SyncIngestionRpcs(SyncRpcs):
    """RPCs of `hedgerow.ingestion.v1.IngestionService`."""

    create_dataset: SyncUnary[ingestion_pb2.CreateDatasetRequest, ingestion_pb2.Dataset]
    get_dataset: SyncUnary[ingestion_pb2.GetDatasetRequest, ingestion_pb2.Dataset]
    list_datasets: SyncUnary[ingestion_pb2.ListDatasetsRequest, ingestion_pb2.ListDatasetsResponse]
    append_records: SyncClientStream[ingestion_pb2.AppendRecordsRequest, ingestion_pb2.AppendRecordsResponse]
    list_quarantined_records: SyncUnary[
        ingestion_pb2.ListQuarantinedRecordsRequest, ingestion_pb2.ListQuarantinedRecordsResponse
    ]
    open_snapshot: SyncUnary[ingestion_pb2.OpenSnapshotRequest, ingestion_pb2.Snapshot]
    erase_subject: SyncUnary[ingestion_pb2.EraseSubjectRequest, ingestion_pb2.EraseSubjectResponse]


class SyncFeaturesRpcs(SyncRpcs):
    """RPCs of `hedgerow.features.v1.FeaturesService`."""

    create_feature_view: SyncUnary[features_pb2.CreateFeatureViewRequest, features_pb2.FeatureView]
    get_feature_view: SyncUnary[features_pb2.GetFeatureViewRequest, features_pb2.FeatureView]
    list_feature_views: SyncUnary[features_pb2.ListFeatureViewsRequest, features_pb2.ListFeatureViewsResponse]
    create_feature_service: SyncUnary[features_pb2.CreateFeatureServiceRequest, features_pb2.FeatureService]
    get_feature_service: SyncUnary[features_pb2.GetFeatureServiceRequest, features_pb2.FeatureService]
    list_feature_services: SyncUnary[features_pb2.ListFeatureServicesRequest, features_pb2.ListFeatureServicesResponse]
    create_training_set: SyncUnary[features_pb2.CreateTrainingSetRequest, features_pb2.TrainingSet]
    get_training_set: SyncUnary[features_pb2.GetTrainingSetRequest, features_pb2.TrainingSet]
    watch_training_set: SyncServerStream[features_pb2.WatchTrainingSetRequest, features_pb2.TrainingSet]
    read_training_set: SyncServerStream[features_pb2.ReadTrainingSetRequest, features_pb2.ReadTrainingSetResponse]
    create_materialization: SyncUnary[features_pb2.CreateMaterializationRequest, features_pb2.Materialization]
    get_materialization: SyncUnary[features_pb2.GetMaterializationRequest, features_pb2.Materialization]
    watch_materialization: SyncServerStream[features_pb2.WatchMaterializationRequest, features_pb2.Materialization]
    get_online_features: SyncUnary[features_pb2.GetOnlineFeaturesRequest, features_pb2.FeatureBlock]
    get_offline_features: SyncUnary[features_pb2.GetOfflineFeaturesRequest, features_pb2.FeatureBlock]
    erase_subject: SyncUnary[features_pb2.EraseSubjectRequest, features_pb2.EraseSubjectResponse]


class SyncTrainingRpcs(SyncRpcs):
    """RPCs of `hedgerow.training.v1.TrainingService`."""

    create_training_run: SyncUnary[training_pb2.CreateTrainingRunRequest, training_pb2.TrainingRun]
    get_training_run: SyncUnary[training_pb2.GetTrainingRunRequest, training_pb2.TrainingRun]
    list_training_runs: SyncUnary[training_pb2.ListTrainingRunsRequest, training_pb2.ListTrainingRunsResponse]
    watch_training_run: SyncServerStream[training_pb2.WatchTrainingRunRequest, training_pb2.TrainingRun]
    cancel_training_run: SyncUnary[training_pb2.CancelTrainingRunRequest, training_pb2.TrainingRun]


class SyncModelsRpcs(SyncRpcs):
    """RPCs of `hedgerow.models.v1.ModelsService`."""

    list_models: SyncUnary[models_pb2.ListModelsRequest, models_pb2.ListModelsResponse]
    get_model_version: SyncUnary[models_pb2.GetModelVersionRequest, models_pb2.ModelVersion]
    list_model_versions: SyncUnary[models_pb2.ListModelVersionsRequest, models_pb2.ListModelVersionsResponse]
    promote_model_version: SyncUnary[models_pb2.PromoteModelVersionRequest, models_pb2.ModelVersion]
    download_artifact: SyncServerStream[models_pb2.DownloadArtifactRequest, models_pb2.DownloadArtifactResponse]


class SyncInferenceRpcs(SyncRpcs):
    """RPCs of `hedgerow.inference.v1.InferenceService`."""

    create_deployment: SyncUnary[inference_pb2.CreateDeploymentRequest, inference_pb2.Deployment]
    get_deployment: SyncUnary[inference_pb2.GetDeploymentRequest, inference_pb2.Deployment]
    list_deployments: SyncUnary[inference_pb2.ListDeploymentsRequest, inference_pb2.ListDeploymentsResponse]
    predict_entities: SyncUnary[inference_pb2.PredictEntitiesRequest, inference_pb2.PredictEntitiesResponse]
    explain_entities: SyncUnary[inference_pb2.ExplainEntitiesRequest, inference_pb2.ExplainEntitiesResponse]


class SyncSecretsRpcs(SyncRpcs):
    """RPCs of `hedgerow.secrets.v1.SecretsService`."""

    renew_certificate: SyncUnary[secrets_pb2.RenewCertificateRequest, secrets_pb2.Certificate]
    revoke_certificate: SyncUnary[secrets_pb2.RevokeCertificateRequest, secrets_pb2.RevokeCertificateResponse]
    watch_trust: SyncServerStream[secrets_pb2.WatchTrustRequest, secrets_pb2.TrustState]
    create_data_key: SyncUnary[secrets_pb2.CreateDataKeyRequest, secrets_pb2.DataKey]
    wrap_key: SyncUnary[secrets_pb2.WrapKeyRequest, secrets_pb2.WrapKeyResponse]
    unwrap_key: SyncUnary[secrets_pb2.UnwrapKeyRequest, secrets_pb2.UnwrapKeyResponse]
    get_pseudonym_key: SyncUnary[secrets_pb2.GetPseudonymKeyRequest, secrets_pb2.PseudonymKey]
    sign: SyncUnary[secrets_pb2.SignRequest, secrets_pb2.Signature]
    get_verification_key: SyncUnary[secrets_pb2.GetVerificationKeyRequest, secrets_pb2.VerificationKey]


class SyncGovernanceRpcs(SyncRpcs):
    """RPCs of `hedgerow.governance.v1.GovernanceService`."""

    create_policy_bundle: SyncUnary[governance_pb2.CreatePolicyBundleRequest, governance_pb2.PolicyBundle]
    get_policy_bundle: SyncUnary[governance_pb2.GetPolicyBundleRequest, governance_pb2.PolicyBundle]
    watch_policy_bundle: SyncServerStream[governance_pb2.WatchPolicyBundleRequest, governance_pb2.PolicyBundle]
    put_audit_segment: SyncUnary[governance_pb2.PutAuditSegmentRequest, governance_pb2.PutAuditSegmentResponse]
    report_audit_head: SyncUnary[governance_pb2.ReportAuditHeadRequest, governance_pb2.ReportAuditHeadResponse]
    export_audit_trail: SyncServerStream[governance_pb2.ExportAuditTrailRequest, governance_pb2.AuditSegment]
    list_audit_events: SyncUnary[governance_pb2.ListAuditEventsRequest, governance_pb2.ListAuditEventsResponse]
    verify_audit_trail: SyncUnary[governance_pb2.VerifyAuditTrailRequest, governance_pb2.VerifyAuditTrailResponse]
    create_audit_anchor: SyncUnary[governance_pb2.CreateAuditAnchorRequest, governance_pb2.AuditAnchor]
    create_erasure_request: SyncUnary[governance_pb2.CreateErasureRequestRequest, governance_pb2.ErasureRequest]
    get_erasure_request: SyncUnary[governance_pb2.GetErasureRequestRequest, governance_pb2.ErasureRequest]
    list_erasure_requests: SyncUnary[
        governance_pb2.ListErasureRequestsRequest, governance_pb2.ListErasureRequestsResponse
    ]
    watch_erasure_request: SyncServerStream[governance_pb2.WatchErasureRequestRequest, governance_pb2.ErasureRequest]


class SyncSuiteRpcs:
    """The RPCs of all services, by service."""

    def __init__(self, portal: Portal, rpcs: SuiteRpcs) -> None:
        self.ingestion = SyncIngestionRpcs(portal, rpcs.ingestion)
        self.features = SyncFeaturesRpcs(portal, rpcs.features)
        self.training = SyncTrainingRpcs(portal, rpcs.training)
        self.models = SyncModelsRpcs(portal, rpcs.models)
        self.inference = SyncInferenceRpcs(portal, rpcs.inference)
        self.secrets = SyncSecretsRpcs(portal, rpcs.secrets)
        self.governance = SyncGovernanceRpcs(portal, rpcs.governance)
