"""Feature views and feature services by id, kept in memory once read: they never change."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from services.features.store import FeaturesStore
from services.features.view import FeatureService, FeatureView

MAX_KEPT = 1024
V = TypeVar("V")


class Definitions:
    """A read-through cache over the store, bounded, least recently used out first."""

    def __init__(self, store: FeaturesStore) -> None:
        self._store = store
        self._views = _Kept[tuple[FeatureView, int]](store.view)
        self._services = _Kept[tuple[FeatureService, int]](store.service)

    async def view(self, view_id: str) -> tuple[FeatureView, int]:
        """Return a view and when it was created, µs since 1970 UTC.

        Raises:
            NotFoundError: there is none.
        """
        return self._views.held(view_id) or await self._views.load(view_id)

    async def service(self, service_id: str) -> tuple[FeatureService, int]:
        """Return a feature service and when it was created, as `view` does."""
        return self._services.held(service_id) or await self._services.load(service_id)


class _Kept(Generic[V]):
    def __init__(self, load: Callable[[str], V]) -> None:
        self._load = load
        self._held: OrderedDict[str, V] = OrderedDict()

    def held(self, key: str) -> V | None:
        value = self._held.get(key)
        if value is not None:
            self._held.move_to_end(key)
        return value

    async def load(self, key: str) -> V:
        value = await asyncio.to_thread(self._load, key)
        self._held[key] = value
        if len(self._held) > MAX_KEPT:
            self._held.popitem(last=False)
        return value
