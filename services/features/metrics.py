"""How the online store serves: what was read, whether it was there and fresh, and how old the last materialization is."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from libs.telemetry import Instruments
from services.features.point_in_time import Status
from services.features.store import FeaturesStore

_LABELS = {Status.PRESENT: "present", Status.NOT_FOUND: "not_found", Status.OUTSIDE_MAX_AGE: "stale"}


class ReadCounts:
    """Entities read online since the service started, by feature service and status. Belongs to the event loop."""

    def __init__(self) -> None:
        self._counts: dict[str, npt.NDArray[np.int64]] = {}

    def add(self, service_id: str, statuses: npt.NDArray[np.uint8]) -> None:
        """Count a read of a feature service that exists; ``statuses`` has one for each entity."""
        counts = self._counts.get(service_id)
        if counts is None:
            counts = self._counts[service_id] = np.zeros(len(Status) + 1, dtype=np.int64)
        counts += np.bincount(statuses, minlength=len(counts))

    def show(self, instruments: Instruments) -> None:
        """Show them."""
        instruments.read_counter(
            "hedgerow_features_online_entities",
            "Entities whose features were read online: present, not_found, or stale (older than their view allows).",
            self._read,
            ["feature_service", "status"],
        )

    def _read(self) -> dict[tuple[str, ...], float]:
        return {
            (service_id, label): float(counts[status])
            for service_id, counts in list(self._counts.items())
            for status, label in _LABELS.items()
        }


def show_freshness(instruments: Instruments, store: FeaturesStore) -> None:
    """Show as of when the online store holds each feature service."""
    instruments.read_gauge(
        "hedgerow_features_materialized_time_seconds",
        "As of when a feature service was last materialized, seconds since 1970.",
        lambda: {(service_id,): as_of_us / 1e6 for service_id, as_of_us in store.materialized().items()},
        ["feature_service"],
    )
