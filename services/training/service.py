"""The servicers: messages in, messages out, one use case per method."""

from __future__ import annotations

import asyncio
import datetime as dt
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from hedgerow import names
from hedgerow.errors import InvalidArgumentError, NotFoundError
from hedgerow.models.v1 import models_pb2
from hedgerow.training.v1 import training_pb2 as pb
from libs.authz.resource import NO_ATTRIBUTES
from libs.identity.grants import make_grant
from libs.rpc import SUITE, Access, Audit, Call, Resource, ResourceAttributes, Service
from services.training import messages
from services.training.feature_source import FAIRNESS_PURPOSE, Delegation, FeatureSource
from services.training.records import RunRecord, RunState, VersionRecord
from services.training.registry import ARTIFACT_KEY, Registry
from services.training.runs import Reads, TrainingRuns
from services.training.store import TrainingStore

GRANT_LIFE: Final = dt.timedelta(minutes=10)

Sign = Callable[[bytes], Awaitable[tuple[bytes, int]]]


class TrainingServicer:
    """``TrainingService``."""

    def __init__(
        self, store: TrainingStore, runs: TrainingRuns, features: FeatureSource, now_us: Callable[[], int]
    ) -> None:
        """Name the parts.

        Args:
            store: where runs are kept.
            runs: carries them out.
            features: where training sets come from.
            now_us: the time, µs since 1970 UTC.
        """
        self._store = store
        self._runs = runs
        self._features = features
        self._now_us = now_us

    async def describe(self, resource: Resource) -> ResourceAttributes:
        """Return what policies can ask of a resource: a training set has the purposes of its sources."""
        if resource.kind != "TrainingSet":
            return NO_ATTRIBUTES
        try:
            return ResourceAttributes(purposes=await self._features.purposes(resource.name))
        except (NotFoundError, InvalidArgumentError):
            return NO_ATTRIBUTES  # the handler meets the same error and answers with it

    async def create_training_run(self, request: pb.CreateTrainingRunRequest, call: Call) -> pb.TrainingRun:
        """Start a run, once per request id."""
        spec = messages.spec_from(request.spec)
        spec.check()
        record = RunRecord(
            run_id=uuid.uuid4().hex,
            requester=call.caller.effective,
            request_id=_request_id(request.request_id),
            spec=spec,
            state=RunState.QUEUED,
            epochs=(),
            model_version="",
            error="",
            create_us=self._now_us(),
            end_us=0,
        )
        source = await self._features.source(spec.training_set)
        await self._features.check_protected(spec, source)
        data, fairness = _delegated(call, call.purpose), _delegated(call, FAIRNESS_PURPOSE)
        return messages.run_message(await self._runs.create(record, Reads(source, data, fairness)))

    async def get_training_run(self, request: pb.GetTrainingRunRequest, call: Call) -> pb.TrainingRun:
        """Return a run."""
        return messages.run_message(await asyncio.to_thread(self._store.run, messages.run_id(request.name)))

    async def list_training_runs(self, request: pb.ListTrainingRunsRequest, call: Call) -> pb.ListTrainingRunsResponse:
        """List runs, newest first."""
        size, before = names.page_size(request.page_size), _number_in(request.page_token)
        found = await asyncio.to_thread(self._store.runs, before, size + 1)
        page = found[:size]
        return pb.ListTrainingRunsResponse(
            training_runs=[messages.run_message(record) for _, record in page],
            next_page_token=names.encode_page_token(str(page[-1][0])) if len(found) > size else "",
        )

    async def watch_training_run(
        self, request: pb.WatchTrainingRunRequest, call: Call
    ) -> AsyncIterator[pb.TrainingRun]:
        """Stream a run until it has ended."""
        async for record in self._runs.watch(messages.run_id(request.name)):
            yield messages.run_message(record)

    async def cancel_training_run(self, request: pb.CancelTrainingRunRequest, call: Call) -> pb.TrainingRun:
        """End a run and its ranks."""
        return messages.run_message(await self._runs.cancel(messages.run_id(request.name)))


class ModelsServicer:
    """``ModelsService``."""

    def __init__(self, registry: Registry, sign_grant: Sign, now: Callable[[], dt.datetime]) -> None:
        """Name the parts.

        Args:
            registry: the models.
            sign_grant: signs with ``signingKeys/training-grants``.
            now: the time, with zone.
        """
        self._registry = registry
        self._store = registry.store
        self._sign_grant = sign_grant
        self._now = now

    async def describe(self, resource: Resource) -> ResourceAttributes:
        """Return what policies can ask of a version: the purposes of its training set."""
        if resource.kind != "ModelVersion":
            return NO_ATTRIBUTES
        try:
            record = await self._version(resource.name)
        except (NotFoundError, InvalidArgumentError):
            return NO_ATTRIBUTES  # the handler meets the same error and answers with it
        return ResourceAttributes(purposes=frozenset(record.read_manifest().purposes))

    async def list_models(self, request: models_pb2.ListModelsRequest, call: Call) -> models_pb2.ListModelsResponse:
        """List models by name."""
        size = names.page_size(request.page_size)
        after = names.decode_page_token(request.page_token) or ""
        found = await asyncio.to_thread(self._store.models, after, size + 1)
        return models_pb2.ListModelsResponse(
            models=[messages.model_message(record) for record in found[:size]],
            next_page_token=names.encode_page_token(found[size - 1].model) if len(found) > size else "",
        )

    async def get_model_version(
        self, request: models_pb2.GetModelVersionRequest, call: Call
    ) -> models_pb2.ModelVersion:
        """Return a version by its number or an alias."""
        return await self._message(await self._version(request.name))

    async def list_model_versions(
        self, request: models_pb2.ListModelVersionsRequest, call: Call
    ) -> models_pb2.ListModelVersionsResponse:
        """List the versions of a model, newest first."""
        size, before = names.page_size(request.page_size), _number_in(request.page_token)
        found = await asyncio.to_thread(self._store.versions, messages.model_id(request.model), before, size + 1)
        page = found[:size]
        return models_pb2.ListModelVersionsResponse(
            model_versions=[await self._message(record) for record in page],
            next_page_token=names.encode_page_token(str(page[-1].number)) if len(found) > size else "",
        )

    async def promote_model_version(
        self, request: models_pb2.PromoteModelVersionRequest, call: Call
    ) -> models_pb2.ModelVersion:
        """Point an alias at a version that passed its gates."""
        model, label = messages.version_ids(request.name)
        return await self._message(await asyncio.to_thread(self._registry.promote, model, label, request.alias))

    async def download_artifact(
        self, request: models_pb2.DownloadArtifactRequest, call: Call
    ) -> AsyncIterator[models_pb2.DownloadArtifactResponse]:
        """Stream the sealed artifact, with a grant for the caller alone."""
        record = await self._version(request.name)
        call.audit_detail["bytes"] = record.artifact_size
        grant = await make_grant(
            self._sign_grant,
            keys=[ARTIFACT_KEY],
            grantee=call.caller.principal,
            expire_time=self._now() + GRANT_LIFE,
        )
        chunks = self._registry.chunks(record)
        while (chunk := await asyncio.to_thread(next, chunks, None)) is not None:
            yield models_pb2.DownloadArtifactResponse(chunk=chunk, grant=grant)
            grant = ""

    async def _version(self, name: str) -> VersionRecord:
        return await asyncio.to_thread(self._store.version, *messages.version_ids(name))

    async def _message(self, record: VersionRecord) -> models_pb2.ModelVersion:
        aliases = await asyncio.to_thread(self._store.aliases_of, record.model, record.number)
        return messages.version_message(record, aliases)


def rpc_services(training: TrainingServicer, models: ModelsServicer) -> list[Service]:
    """Return both gRPC services with what each RPC needs of the chain."""
    return [
        Service(
            pb.DESCRIPTOR.services_by_name["TrainingService"],
            training,
            area="training",
            access={
                "CreateTrainingRun": Access(
                    lambda r: [Resource("TrainingSet", r.spec.training_set), Resource("Model", r.spec.model)]
                ),
                "GetTrainingRun": Access(lambda r: [Resource("TrainingRun", r.name)], audit=Audit.BUFFERED),
                "ListTrainingRuns": Access(lambda r: [SUITE], audit=Audit.BUFFERED),
                "WatchTrainingRun": Access(lambda r: [Resource("TrainingRun", r.name)], audit=Audit.NONE),
                "CancelTrainingRun": Access(lambda r: [Resource("TrainingRun", r.name)]),
            },
            describe=training.describe,
        ),
        Service(
            models_pb2.DESCRIPTOR.services_by_name["ModelsService"],
            models,
            area="models",
            access={
                "ListModels": Access(lambda r: [SUITE], audit=Audit.BUFFERED),
                "GetModelVersion": Access(lambda r: [Resource("ModelVersion", r.name)], audit=Audit.BUFFERED),
                "ListModelVersions": Access(lambda r: [Resource("Model", r.model)], audit=Audit.BUFFERED),
                "PromoteModelVersion": Access(lambda r: [Resource("ModelVersion", r.name)]),
                "DownloadArtifact": Access(lambda r: [Resource("ModelVersion", r.name)]),
            },
            describe=models.describe,
        ),
    ]


def _delegated(call: Call, purpose: str) -> Delegation:
    """Return leave to read for a purpose; policy asks of the principal too whether it may have that purpose."""
    return Delegation(purpose, call.delegation(purpose))


def _request_id(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError as error:
        wanted = "expected a UUID, the same in each retry of this request"
        raise InvalidArgumentError(f"request_id: {wanted}", fields={"request_id": wanted}) from error


def _number_in(page_token: str) -> int | None:
    """Return the number that a page token continues below, or None for the first page."""
    key = names.decode_page_token(page_token)
    if key is None:
        return None
    if not key.isdecimal() or len(key) > 18:
        wanted = "use next_page_token unchanged"
        raise InvalidArgumentError(f"page_token: {wanted}", fields={"page_token": wanted})
    return int(key)
