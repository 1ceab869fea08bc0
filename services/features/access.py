"""What each RPC acts on, how it is audited, and what policies can ask of the resources."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from hedgerow.errors import InvalidArgumentError
from libs.authz.resource import NO_ATTRIBUTES, SUITE, Resource, ResourceAttributes
from libs.rpc.service import Access, Audit
from services.features import messages
from services.features.definitions import Definitions
from services.features.store import FeaturesStore

ACCESS: Mapping[str, Access] = {
    "CreateFeatureView": Access(lambda r: [Resource("FeatureView", f"featureViews/{r.feature_view_id}")], creates=True),
    "GetFeatureView": Access(lambda r: [Resource("FeatureView", r.name)], audit=Audit.BUFFERED),
    "ListFeatureViews": Access(lambda r: [SUITE], audit=Audit.BUFFERED),
    "CreateFeatureService": Access(
        lambda r: [Resource("FeatureService", f"featureServices/{r.feature_service_id}")], creates=True
    ),
    "GetFeatureService": Access(lambda r: [Resource("FeatureService", r.name)], audit=Audit.BUFFERED),
    "ListFeatureServices": Access(lambda r: [SUITE], audit=Audit.BUFFERED),
    "CreateTrainingSet": Access(
        lambda r: [
            Resource("TrainingSet", f"trainingSets/{r.training_set_id}"),
            Resource("FeatureService", r.training_set.feature_service),
        ],
        creates=True,
    ),
    "GetTrainingSet": Access(lambda r: [Resource("TrainingSet", r.name)], audit=Audit.BUFFERED),
    "WatchTrainingSet": Access(lambda r: [Resource("TrainingSet", r.name)], audit=Audit.NONE),
    "ReadTrainingSet": Access(lambda r: [Resource("TrainingSet", r.name)]),
    "CreateMaterialization": Access(lambda r: [Resource("FeatureService", r.feature_service)]),
    "GetMaterialization": Access(lambda r: [Resource("Materialization", r.name)], audit=Audit.BUFFERED),
    "WatchMaterialization": Access(lambda r: [Resource("Materialization", r.name)], audit=Audit.NONE),
    "GetOnlineFeatures": Access(lambda r: [Resource("FeatureService", r.feature_service)]),
    "GetOfflineFeatures": Access(lambda r: [Resource("FeatureService", r.feature_service)]),
    "EraseSubject": Access(lambda r: [Resource("ErasureRequest", r.erasure_request)]),
}


class Describer:
    """Looks up the attributes of resources: purposes and tags, inherited from the columns behind them."""

    def __init__(self, store: FeaturesStore, definitions: Definitions) -> None:
        self._store = store
        self._definitions = definitions
        self._kinds: dict[str, tuple[Callable[[str], str], Callable[[str], Awaitable[ResourceAttributes]]]] = {
            "FeatureView": (messages.view_id, self._view),
            "FeatureService": (messages.service_id, self._service),
            "TrainingSet": (messages.training_set_id, self._training_set),
            "Materialization": (messages.materialization_id, self._materialization),
        }

    async def describe(self, resource: Resource) -> ResourceAttributes:
        """Return what policies can ask of a resource.

        Raises:
            NotFoundError: it does not exist.
        """
        if resource.kind not in self._kinds:
            return NO_ATTRIBUTES
        id_of, attributes = self._kinds[resource.kind]
        try:
            resource_id = id_of(resource.name)
        except InvalidArgumentError:
            # The handler meets the same error and answers with it.
            return NO_ATTRIBUTES
        return await attributes(resource_id)

    async def _view(self, view_id: str) -> ResourceAttributes:
        view, _ = await self._definitions.view(view_id)
        return ResourceAttributes(purposes=view.purposes, tags=view.tags)

    async def _service(self, service_id: str) -> ResourceAttributes:
        service, _ = await self._definitions.service(service_id)
        return ResourceAttributes(purposes=service.purposes, tags=service.tags)

    async def _training_set(self, training_set_id: str) -> ResourceAttributes:
        record = await asyncio.to_thread(self._store.training_set, training_set_id)
        return ResourceAttributes(purposes=frozenset(record.purposes), tags=frozenset(record.tags))

    async def _materialization(self, materialization_id: str) -> ResourceAttributes:
        record = await asyncio.to_thread(self._store.materialization, materialization_id)
        return await self._service(record.service_id)
