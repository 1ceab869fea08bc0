"""How erasures go: how many are at work, since when the oldest waits, and how they ended."""

from __future__ import annotations

import time
from collections.abc import Mapping

from libs.telemetry import Instruments
from services.governance.erasure import ErasureRequest, State


class ErasureCounts:
    """Counts since the service started. Belongs to the event loop."""

    def __init__(self, asked_ns: Mapping[str, int]) -> None:
        """Take when the requests at work were asked for, by id, as it changes."""
        self._asked_ns = asked_ns
        self._ended: dict[tuple[str, ...], float] = {(str(state),): 0.0 for state in (State.SUCCEEDED, State.FAILED)}
        self._rows = 0

    def ended(self, request: ErasureRequest) -> None:
        """Count a request that ended."""
        self._ended[str(request.state),] += 1
        self._rows += sum(store.rows_erased for store in request.stores)

    def show(self, instruments: Instruments) -> None:
        """Show them."""
        instruments.read_counter(
            "hedgerow_erasures", "Erasure requests that ended, by state.", self._ended.copy, ["state"]
        )
        instruments.read_counter("hedgerow_erased_rows", "Rows that erasures removed.", lambda: {(): self._rows})
        instruments.read_gauge(
            "hedgerow_erasures_running", "Erasure requests at work or waiting.", lambda: {(): len(self._asked_ns)}
        )
        instruments.read_gauge(
            "hedgerow_erasure_oldest_seconds", "Age of the oldest erasure request that has not ended.", self._oldest
        )

    def _oldest(self) -> dict[tuple[str, ...], float]:
        asked = tuple(self._asked_ns.values())
        return {(): time.time() - min(asked) / 1e9 if asked else 0.0}
