"""Handlers of ``hedgerow.inference.v1``: deployments, predictions for entities, and explanations."""

from __future__ import annotations

import asyncio
import datetime as dt
import functools
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np

from hedgerow import names
from hedgerow.client import ServiceClient
from hedgerow.errors import FailedPreconditionError, InternalError, InvalidArgumentError, NotFoundError
from hedgerow.features.v1 import features_pb2
from hedgerow.inference.v1 import inference_pb2 as pb
from hedgerow.models.v1 import models_pb2
from libs.artifact import Evidence
from libs.rpc import SUITE, Access, Audit, Call, Resource, ResourceAttributes, Service
from services.inference.deployment import Deployment, DeploymentRecord, Deployments
from services.inference.explain import reasons
from services.inference.model_runtime import FloatArray
from services.inference.registry import collect

DEPLOYMENT: Final = "deployments/{deployment}"
MODEL_VERSION: Final = "models/{model}/versions/{version}"
ARTIFACT_KEY: Final = "keys/training-artifacts"
KEPT_KEY: Final = "keys/inference-artifacts"
MODEL_SIGNING_KEY: Final = "signingKeys/training-models"
MAX_PREDICTED: Final = 1000
MAX_EXPLAINED: Final = 100
MAX_REASONS: Final = 50
DEFAULT_REASONS: Final = 5
MAX_ENTITY_KEY: Final = 256

_STATUS: Final[Mapping[int, pb.Prediction.Status]] = {
    features_pb2.FeatureBlock.STATUS_PRESENT: pb.Prediction.STATUS_OK,
    features_pb2.FeatureBlock.STATUS_NOT_FOUND: pb.Prediction.STATUS_ENTITY_NOT_FOUND,
    features_pb2.FeatureBlock.STATUS_OUTSIDE_MAX_AGE: pb.Prediction.STATUS_FEATURES_EXPIRED,
}


class ArtifactKeys(Protocol):
    """What inference needs of the secrets service."""

    async def wrap(self, key: str, plaintext: bytes) -> bytes:
        """Return key material wrapped under a key of this service."""

    async def unwrap(self, key: str, wrapped: bytes, grant: str = "") -> bytes:
        """Return key material in clear, by ownership or on the strength of a grant."""

    async def verification_keys(self, key: str) -> dict[int, bytes]:
        """Return the raw public keys of a signing key by version."""


class InferenceServicer:
    """Handles ``hedgerow.inference.v1.InferenceService``."""

    def __init__(
        self,
        deployments: Deployments,
        *,
        registry: ServiceClient,
        features: ServiceClient,
        keys: ArtifactKeys,
        now: Callable[[], dt.datetime] = lambda: dt.datetime.now(dt.UTC),
    ) -> None:
        """Prepare the handlers.

        Args:
            deployments: what is served.
            registry: client of ``hedgerow.models.v1.ModelsService``.
            features: client of ``hedgerow.features.v1.FeaturesService``.
            keys: the secrets service.
            now: the clock.
        """
        self._deployments = deployments
        self._registry = registry
        self._features = features
        self._keys = keys
        self._now = now

    # ---- deployments

    async def create_deployment(self, request: pb.CreateDeploymentRequest, call: Call) -> pb.Deployment:
        """Serve a version, once it is verified, loaded and kept."""
        deployment_id = names.check_id(request.deployment_id, "deployment_id")
        names.parse(MODEL_VERSION, request.model_version, field="model_version")
        context = {"purpose": call.purpose, "on_behalf_of": call.delegate(), "request_id": call.request_id}
        asked = models_pb2.GetModelVersionRequest(name=request.model_version)
        version = await self._registry.call("GetModelVersion", asked, timeout=call.time_left(), **context)
        evidence = Evidence(
            model_version=version.name,
            artifact_digest=version.artifact_digest,
            manifest=version.manifest,
            signature=version.signature,
            key_version=version.key_version,
        )
        await self._deployments.look()
        current = self._deployments.record(deployment_id)
        if current is None or current.evidence != evidence or deployment_id in self._deployments.pending():
            sealed, data_key = await self._download(version, call, context)
            public_keys = await self._keys.verification_keys(MODEL_SIGNING_KEY)
            record = DeploymentRecord(
                deployment_id,
                evidence,
                # An unknown version of the key leaves nothing to verify with, and loading refuses the signature.
                public_key=public_keys.get(version.key_version, b""),
                wrapped_key=await self._keys.wrap(KEPT_KEY, data_key),
                update_time=self._now(),
            )
            await self._deployments.deploy(record, sealed, data_key)
        return self._message(deployment_id)

    async def _download(
        self, version: models_pb2.ModelVersion, call: Call, context: dict[str, str]
    ) -> tuple[bytes, bytes]:
        """Return the sealed artifact and its data key in clear."""
        grant = ""

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal grant
            request = models_pb2.DownloadArtifactRequest(name=version.name)
            async for part in self._registry.stream("DownloadArtifact", request, timeout=call.time_left(), **context):
                grant = grant or part.grant
                yield part.chunk

        sealed = await collect(chunks())
        return sealed, await self._keys.unwrap(ARTIFACT_KEY, version.wrapped_key, grant)

    async def get_deployment(self, request: pb.GetDeploymentRequest, call: Call) -> pb.Deployment:
        """Return a deployment."""
        return self._message(_deployment_id(request.name, "name"))

    async def list_deployments(self, request: pb.ListDeploymentsRequest, call: Call) -> pb.ListDeploymentsResponse:
        """Return one page of deployments by name."""
        await self._deployments.look()
        size = names.page_size(request.page_size)
        after = names.decode_page_token(request.page_token) or ""
        serving = (deployment.record.deployment_id for deployment in self._deployments.serving())
        rest = sorted(key for key in {*serving, *self._deployments.pending()} if key > after)
        token = names.encode_page_token(rest[size - 1]) if len(rest) > size else ""
        return pb.ListDeploymentsResponse(
            deployments=[self._message(key) for key in rest[:size]], next_page_token=token
        )

    def _message(self, deployment_id: str) -> pb.Deployment:
        """Return the message of a deployment, loaded or not."""
        record = self._deployments.record(deployment_id)
        loading = deployment_id in self._deployments.pending()
        if record is None and not loading:
            raise NotFoundError(f"there is no deployment {deployment_id!r}; ListDeployments shows what there is")
        message = pb.Deployment(
            name=names.build(DEPLOYMENT, deployment=deployment_id), state=pb.Deployment.STATE_LOADING
        )
        if record is not None:
            message.model_version = record.evidence.model_version
        if record is not None and not loading:
            manifest = self._deployments.find(deployment_id).model.manifest
            message.state = pb.Deployment.STATE_READY
            message.update_time.FromDatetime(record.update_time)
            message.feature_names.extend(manifest.feature_names)
            message.purposes.extend(manifest.purposes)
        return message

    # ---- predictions and explanations

    async def predict_entities(self, request: pb.PredictEntitiesRequest, call: Call) -> pb.PredictEntitiesResponse:
        """Predict for entities with their features from the online store."""
        deployment = self._deployments.find(_deployment_id(request.deployment, "deployment"))
        rows, statuses = await self._online(deployment, _checked_keys(request.entity_keys, MAX_PREDICTED), call)
        predictions, _ = await _predict(deployment, rows, statuses, call)
        return pb.PredictEntitiesResponse(
            predictions=predictions, model_version=deployment.record.evidence.model_version
        )

    async def explain_entities(self, request: pb.ExplainEntitiesRequest, call: Call) -> pb.ExplainEntitiesResponse:
        """Explain the predictions of entities by Integrated Gradients."""
        deployment = self._deployments.find(_deployment_id(request.deployment, "deployment"))
        if not 0 <= request.top_reasons <= MAX_REASONS:
            what = f"expected 1 to {MAX_REASONS}, or 0 for {DEFAULT_REASONS}"
            raise InvalidArgumentError(f"top_reasons: {what}", fields={"top_reasons": what})
        rows, statuses = await self._online(deployment, _checked_keys(request.entity_keys, MAX_EXPLAINED), call)
        predictions, present = await _predict(deployment, rows, statuses, call)
        explanations = [pb.Explanation(prediction=prediction) for prediction in predictions]
        found = await deployment.model.explain(rows[present], seconds=call.time_left())
        manifest, baseline = deployment.model.manifest, deployment.model.baseline
        for place, index in enumerate(present.tolist()):
            explanation = explanations[index]
            explanation.logit = found.logits[place]
            explanation.baseline_logit = found.baseline_logit
            explanation.attributions.extend(found.values[place].tolist())
            explanation.completeness_gap = found.gaps[place]
            for reason in reasons(
                manifest.feature_names,
                manifest.feature_descriptions,
                rows[index],
                baseline,
                found.values[place],
                top=request.top_reasons or DEFAULT_REASONS,
            ):
                explanation.reasons.add(
                    feature=reason.feature,
                    value=reason.value,
                    baseline_value=reason.baseline_value,
                    attribution=reason.attribution,
                    text=reason.text,
                )
        return pb.ExplainEntitiesResponse(
            explanations=explanations, model_version=deployment.record.evidence.model_version
        )

    async def _online(
        self, deployment: Deployment, entity_keys: Sequence[str], call: Call
    ) -> tuple[FloatArray, Sequence[int]]:
        """Return the features of entities, float64 [n, features], and their statuses.

        Raises:
            FailedPreconditionError: the feature service has other features than the model was trained on.
            HedgerowError: as GetOnlineFeatures states, for the caller's own rights and purpose.
        """
        call.audit_detail["entities"] = len(entity_keys)
        manifest = deployment.model.manifest
        block = await self._features.call(
            "GetOnlineFeatures",
            features_pb2.GetOnlineFeaturesRequest(feature_service=manifest.feature_service, entity_keys=entity_keys),
            timeout=call.time_left(),
            purpose=call.purpose,
            on_behalf_of=call.delegate(),
            request_id=call.request_id,
        )
        expected = manifest.feature_names
        if tuple(block.feature_names) != expected:
            raise FailedPreconditionError(
                f"{manifest.feature_service} no longer has the features that {manifest.model_version} was trained on;"
                " train and deploy a new version",
                metadata={"feature_service": manifest.feature_service},
            )
        if len(block.statuses) != len(entity_keys) or len(block.values) != 8 * len(entity_keys) * len(expected):
            raise InternalError("the feature block has another size than its entities and features")
        return np.frombuffer(block.values, dtype="<f8").reshape(len(entity_keys), len(expected)), block.statuses

    async def describe(self, resource: Resource) -> ResourceAttributes:
        """Return the purposes of a deployment, which bind whoever uses it."""
        if resource.kind != "Deployment":
            return _attributes(())
        deployment_id = resource.name.partition("/")[2]
        # Asked before each handler, so that no handler has to.
        await self._deployments.catch_up(deployment_id)
        return _attributes(self._deployments.purposes(deployment_id))


@functools.lru_cache(maxsize=1024)
def _attributes(purposes: tuple[str, ...]) -> ResourceAttributes:
    """Return the attributes of a deployment; one object per set of purposes, made once."""
    return ResourceAttributes(purposes=frozenset(purposes), owner="inference")


async def _predict(
    deployment: Deployment, rows: FloatArray, statuses: Sequence[int], call: Call
) -> tuple[list[pb.Prediction], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return a prediction per entity, and the indices of those that have features."""
    predictions = [pb.Prediction(status=_STATUS.get(status, pb.Prediction.STATUS_UNSPECIFIED)) for status in statuses]
    present = np.flatnonzero(np.asarray(statuses) == features_pb2.FeatureBlock.STATUS_PRESENT)
    if len(present):
        expires_at = asyncio.get_running_loop().time() + call.time_left()
        wanted = rows if len(present) == len(rows) else rows[present]
        answer = await deployment.model.predict(wanted, expires_at=expires_at)
        for index, probability in zip(present.tolist(), answer[:, 0].tolist(), strict=True):
            predictions[index].probability = probability
    return predictions, present


def _deployment_id(name: str, field: str) -> str:
    return names.parse(DEPLOYMENT, name, field=field)["deployment"]


def _checked_keys(entity_keys: Sequence[str], most: int) -> Sequence[str]:
    if not 1 <= len(entity_keys) <= most:
        what = f"expected 1 to {most} keys, received {len(entity_keys)}"
        raise InvalidArgumentError(f"entity_keys: {what}", fields={"entity_keys": what})
    for index, key in enumerate(entity_keys):
        if not 1 <= len(key) <= MAX_ENTITY_KEY:
            what = f"expected 1 to {MAX_ENTITY_KEY} characters, received {len(key)}"
            raise InvalidArgumentError(f"entity_keys[{index}]: {what}", fields={f"entity_keys[{index}]": what})
    return entity_keys


def _deployment(name: str) -> Resource:
    # Cut to just more than the longest name: one that is too long stays unknown, and small in cache and audit.
    return Resource("Deployment", name[:80])


def _created(request: pb.CreateDeploymentRequest) -> list[Resource]:
    return [
        _deployment(f"deployments/{request.deployment_id}"),
        Resource("ModelVersion", request.model_version[:160]),
    ]


def rpc_service(servicer: InferenceServicer) -> Service:
    """Register the handlers."""
    return Service(
        descriptor=pb.DESCRIPTOR.services_by_name["InferenceService"],
        servicer=servicer,
        area="inference",
        access={
            "CreateDeployment": Access(_created),
            "GetDeployment": Access(lambda r: [_deployment(r.name)], Audit.BUFFERED),
            "ListDeployments": Access(lambda r: [SUITE], Audit.BUFFERED),
            "PredictEntities": Access(lambda r: [_deployment(r.deployment)], Audit.BUFFERED),
            # An explanation repeats the values of a person's features, so its event is durable before it leaves.
            "ExplainEntities": Access(lambda r: [_deployment(r.deployment)], Audit.DURABLE),
        },
        describe=servicer.describe,
    )
