"""Answers from the online store: one read per view, one block for all entities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from services.features.computation import Block, stored_view
from services.features.online_store import OnlineStore
from services.features.point_in_time import Status, combine, freshness
from services.features.view import FeatureService


def online_block(online: OnlineStore, service: FeatureService, entities: Sequence[str], now_us: int) -> Block:
    """Return the newest features of stored entity keys.

    Values older than the TTL of their view are withheld: NaN, with the status `OUTSIDE_MAX_AGE`.

    Args:
        now_us: the time of reading, µs since 1970 UTC.

    Raises:
        DataLossError: stored bytes do not authenticate.
    """
    values = np.empty((len(entities), len(service.features)))
    statuses = []
    start = 0
    for view in service.views:
        found = online.read(stored_view(view), entities)
        status = freshness(found.event_us, now_us, view.ttl_seconds)
        end = start + len(view.features)
        values[:, start:end] = found.values
        if view.ttl_seconds:
            values[status != Status.PRESENT, start:end] = np.nan
        statuses.append(status)
        start = end
    return Block(values, statuses[0] if len(statuses) == 1 else combine(statuses))
