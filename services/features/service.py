"""The RPCs of `hedgerow.features.v1`: proto in, proto out, one use case each."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeVar

from hedgerow import names
from hedgerow.errors import FailedPreconditionError
from hedgerow.features.v1 import features_pb2 as pb
from hedgerow.governance.v1 import governance_pb2
from libs.rpc.call import Call
from libs.rpc.service import Service
from services.features import messages
from services.features.access import ACCESS, Describer
from services.features.builds import Builds
from services.features.definitions import Definitions
from services.features.entity import canonical_keys
from services.features.erasure import SubjectEraser, Unwrap
from services.features.expression import invalid
from services.features.metrics import ReadCounts
from services.features.online import online_block
from services.features.online_store import OnlineStore
from services.features.point_in_time import PointInTime
from services.features.pseudonyms import Pseudonyms
from services.features.records import State
from services.features.snapshots import Asker, Snapshots
from services.features.store import FeaturesStore
from services.features.training_set_files import TrainingSetFiles
from services.features.view import FeatureService, FeatureView, define_service, define_view
from services.features.workers import ChangeFeed

# Reading so many values takes less time than handing the read to a thread.
INLINE_READS = 128
CLOCK_SKEW_US = 5 * 60 * 1_000_000
UPSTREAM_SECONDS = 20.0
_PSEUDONYM = re.compile(r"[0-9a-f]{32}")
_DOMAIN = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class _Record(Protocol):
    @property
    def state(self) -> State: ...


R = TypeVar("R", bound=_Record)
V = TypeVar("V")


class FeaturesServicer:
    """Handlers, one per RPC."""

    def __init__(
        self,
        *,
        store: FeaturesStore,
        definitions: Definitions,
        snapshots: Snapshots,
        builds: Builds,
        online: OnlineStore,
        files: TrainingSetFiles,
        unwrap: Unwrap,
        eraser: SubjectEraser,
        pseudonyms: Pseudonyms,
        feed: ChangeFeed,
        poll_seconds: float | None = None,
        inline_reads: int = INLINE_READS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take the use cases and stores.

        Args:
            unwrap: returns the data key of a training set file.
            inline_reads: values of the online store that are read on the event loop at once.
            poll_seconds: how often those who watch look for what other replicas did; None where there are none.
            clock: seconds since 1970 UTC.
        """
        self._store = store
        self._definitions = definitions
        self._snapshots = snapshots
        self._builds = builds
        self._online = online
        self._files = files
        self._unwrap = unwrap
        self._eraser = eraser
        self._pseudonyms = pseudonyms
        self._feed = feed
        self._poll_seconds = poll_seconds
        self._inline_reads = inline_reads
        self._clock = clock
        self.reads = ReadCounts()

    # ---- feature views

    async def create_feature_view(self, request: pb.CreateFeatureViewRequest, call: Call) -> pb.FeatureView:
        """Check a view against the contract of its dataset, and keep it."""
        view_id = names.check_id(request.feature_view_id, "feature_view_id")
        wanted = request.feature_view
        names.parse(messages.DATASET, wanted.dataset, field="feature_view.dataset")
        contract = await self._snapshots.contract(wanted.dataset, _asker(call))

        def define() -> FeatureView:
            view = define_view(
                view_id,
                contract,
                wanted.entity_column,
                messages.features_of(wanted),
                ttl_seconds=wanted.ttl_seconds,
                description=wanted.description,
            )
            with PointInTime() as engine:
                engine.check_view(view)
            return view

        view = await asyncio.to_thread(define)
        return messages.view_message(view, await asyncio.to_thread(self._store.add_view, view, self._now_us()))

    async def get_feature_view(self, request: pb.GetFeatureViewRequest, call: Call) -> pb.FeatureView:
        """Return a view."""
        return messages.view_message(*await self._definitions.view(messages.view_id(request.name)))

    async def list_feature_views(self, request: pb.ListFeatureViewsRequest, call: Call) -> pb.ListFeatureViewsResponse:
        """Return a page of views."""
        found, token = await _page(request, self._store.views, lambda each: each[0].view_id)
        return pb.ListFeatureViewsResponse(
            feature_views=[messages.view_message(*each) for each in found], next_page_token=token
        )

    # ---- feature services

    async def create_feature_service(self, request: pb.CreateFeatureServiceRequest, call: Call) -> pb.FeatureService:
        """Check that the views fit together, and keep the feature service."""
        service_id = names.check_id(request.feature_service_id, "feature_service_id")
        wanted = [
            messages.view_id(name, f"feature_service.feature_views[{index}]")
            for index, name in enumerate(request.feature_service.feature_views)
        ]
        views = [(await self._definitions.view(view_id))[0] for view_id in wanted]
        service = define_service(service_id, views)
        create_us = await asyncio.to_thread(self._store.add_service, service, self._now_us())
        return messages.service_message(service, create_us)

    async def get_feature_service(self, request: pb.GetFeatureServiceRequest, call: Call) -> pb.FeatureService:
        """Return a feature service."""
        return messages.service_message(*await self._definitions.service(messages.service_id(request.name)))

    async def list_feature_services(
        self, request: pb.ListFeatureServicesRequest, call: Call
    ) -> pb.ListFeatureServicesResponse:
        """Return a page of feature services."""
        found, token = await _page(request, self._store.services, lambda each: each[0].service_id)
        return pb.ListFeatureServicesResponse(
            feature_services=[messages.service_message(*each) for each in found], next_page_token=token
        )

    # ---- training sets

    async def create_training_set(self, request: pb.CreateTrainingSetRequest, call: Call) -> pb.TrainingSet:
        """Start building a training set."""
        record = await self._builds.create_training_set(
            names.check_id(request.training_set_id, "training_set_id"),
            messages.service_id(request.training_set.feature_service, "training_set.feature_service"),
            messages.cutoffs_of(request.training_set),
            _asker(call),
            self._now_us(),
        )
        return messages.training_set_message(record)

    async def get_training_set(self, request: pb.GetTrainingSetRequest, call: Call) -> pb.TrainingSet:
        """Return a training set."""
        training_set_id = messages.training_set_id(request.name)
        return messages.training_set_message(await asyncio.to_thread(self._store.training_set, training_set_id))

    async def watch_training_set(
        self, request: pb.WatchTrainingSetRequest, call: Call
    ) -> AsyncIterator[pb.TrainingSet]:
        """Stream a training set at each change."""
        training_set_id = messages.training_set_id(request.name)
        async for record in self._watch(request.name, self._store.training_set, training_set_id):
            yield messages.training_set_message(record)

    async def read_training_set(
        self, request: pb.ReadTrainingSetRequest, call: Call
    ) -> AsyncIterator[pb.ReadTrainingSetResponse]:
        """Stream the rows of a training set."""
        training_set_id = messages.training_set_id(request.name)
        record = await asyncio.to_thread(self._store.training_set, training_set_id)
        if record.state is not State.SUCCEEDED:
            raise FailedPreconditionError(
                f"{request.name} is {record.state.name}, it has no rows to read; watch it until it has SUCCEEDED",
                metadata={"state": record.state.name},
            )
        key = await self._unwrap(await asyncio.to_thread(self._files.wrapped_key, training_set_id))
        frames = self._files.read(training_set_id, key)
        while (frame := await asyncio.to_thread(next, frames, None)) is not None:
            yield pb.ReadTrainingSetResponse(arrow_ipc=frame)

    # ---- the online store

    async def create_materialization(self, request: pb.CreateMaterializationRequest, call: Call) -> pb.Materialization:
        """Start writing the newest values of a feature service to the online store."""
        service_id = messages.service_id(request.feature_service, "feature_service")
        as_of_us = now_us = self._now_us()
        if request.HasField("as_of_time"):
            as_of_us = messages.to_us(request.as_of_time, "as_of_time")
        if as_of_us > now_us + CLOCK_SKEW_US:
            raise invalid("as_of_time", "is in the future, when nothing is known yet")
        return messages.materialization_message(
            await self._builds.create_materialization(service_id, as_of_us, _asker(call))
        )

    async def get_materialization(self, request: pb.GetMaterializationRequest, call: Call) -> pb.Materialization:
        """Return a materialization."""
        materialization_id = messages.materialization_id(request.name)
        record = await asyncio.to_thread(self._store.materialization, materialization_id)
        return messages.materialization_message(record)

    async def watch_materialization(
        self, request: pb.WatchMaterializationRequest, call: Call
    ) -> AsyncIterator[pb.Materialization]:
        """Stream a materialization at each change."""
        materialization_id = messages.materialization_id(request.name)
        async for record in self._watch(request.name, self._store.materialization, materialization_id):
            yield messages.materialization_message(record)

    async def get_online_features(self, request: pb.GetOnlineFeaturesRequest, call: Call) -> pb.FeatureBlock:
        """Read features from the online store."""
        service, entities = await self._asked(request)
        now_us = self._now_us()
        if len(entities) * len(service.views) <= self._inline_reads:
            block = online_block(self._online, service, entities, now_us)
        else:
            block = await asyncio.to_thread(online_block, self._online, service, entities, now_us)
        self.reads.add(service.service_id, block.statuses)
        call.audit_detail["entities"] = len(entities)
        return messages.block_message(service, block)

    async def get_offline_features(self, request: pb.GetOfflineFeaturesRequest, call: Call) -> pb.FeatureBlock:
        """Compute features from the lake as of a time."""
        if not request.HasField("as_of_time"):
            raise invalid("as_of_time", "is required")
        as_of_us = messages.to_us(request.as_of_time, "as_of_time")
        if request.pseudonymous:
            service, entities = await self._asked_by_pseudonym(request, call)
        else:
            service, entities = await self._asked(request)
        block = await self._builds.offline(service, entities, as_of_us, _asker(call))
        call.audit_detail["entities"] = len(entities)
        return messages.block_message(service, block)

    # ---- erasure

    async def erase_subject(self, request: pb.EraseSubjectRequest, call: Call) -> pb.EraseSubjectResponse:
        """Remove a subject from the online store and every training set, and search what remains."""
        names.parse(messages.ERASURE_REQUEST, request.erasure_request, field="erasure_request")
        if not _DOMAIN.fullmatch(request.domain):
            raise invalid("domain", "expected the name of a pseudonym domain")
        if not _PSEUDONYM.fullmatch(request.pseudonym):
            raise invalid("pseudonym", "expected 32 lower-case hexadecimal characters")
        reports = await self._eraser.erase(request.pseudonym)
        call.audit_detail["rows_erased"] = sum(report.rows_erased for report in reports)
        return pb.EraseSubjectResponse(
            stores=[
                governance_pb2.StoreErasure(
                    service="features",
                    store=report.store,
                    objects_searched=report.objects_searched,
                    objects_rewritten=report.objects_rewritten,
                    objects_destroyed=report.objects_destroyed,
                    rows_erased=report.rows_erased,
                    remaining_hits=report.remaining_hits,
                )
                for report in reports
            ]
        )

    # ---- steps that handlers share

    async def _asked(
        self, request: pb.GetOnlineFeaturesRequest | pb.GetOfflineFeaturesRequest
    ) -> tuple[FeatureService, list[str]]:
        """Return the feature service a request names and the stored form of its entity keys."""
        service, _ = await self._definitions.service(messages.service_id(request.feature_service, "feature_service"))
        domain = service.entity.domain
        pseudonyms = await self._pseudonyms.of(domain) if domain else None
        return service, canonical_keys(request.entity_keys, service.entity, pseudonyms)

    async def _asked_by_pseudonym(
        self, request: pb.GetOfflineFeaturesRequest, call: Call
    ) -> tuple[FeatureService, list[str]]:
        """Return the feature service and the pseudonyms that a service names."""
        if call.caller.kind != "service":
            raise invalid("pseudonymous", "only a service may name entities by pseudonym")
        service, _ = await self._definitions.service(messages.service_id(request.feature_service, "feature_service"))
        if not service.entity.domain:
            raise invalid("pseudonymous", f"the entities of {request.feature_service} have no pseudonyms")
        if not all(map(_PSEUDONYM.fullmatch, request.entity_keys)):
            raise invalid("entity_keys", "expected pseudonyms of 32 lower-case hexadecimal characters")
        return service, canonical_keys(request.entity_keys, service.entity, lambda keys: keys)

    async def _watch(self, name: str, load: Callable[[str], R], key: str) -> AsyncIterator[R]:
        async with self._feed.watch(name) as changed:
            former: R | None = None
            while True:
                changed.clear()
                record = await asyncio.to_thread(load, key)
                if record != former:
                    yield record
                if record.state is not State.RUNNING:
                    return
                former = record
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._poll_seconds):
                        await changed.wait()

    def _now_us(self) -> int:
        return int(self._clock() * 1_000_000)


def rpc_service(servicer: FeaturesServicer, describer: Describer) -> Service:
    """Return the gRPC service with what each RPC needs of the chain."""
    return Service(
        pb.DESCRIPTOR.services_by_name["FeaturesService"],
        servicer,
        area="features",
        access=ACCESS,
        describe=describer.describe,
    )


async def _page(
    request: pb.ListFeatureViewsRequest | pb.ListFeatureServicesRequest,
    load: Callable[[str, int], list[V]],
    key: Callable[[V], str],
) -> tuple[list[V], str]:
    """Return one page of a listing and the token of the next."""
    size = names.page_size(request.page_size)
    after = names.decode_page_token(request.page_token) or ""
    found = await asyncio.to_thread(load, after, size + 1)
    more = len(found) > size
    return found[:size], names.encode_page_token(key(found[size - 1])) if more else ""


def _asker(call: Call) -> Asker:
    return Asker(call.purpose, call.delegate(), min(call.time_left(), UPSTREAM_SECONDS))
