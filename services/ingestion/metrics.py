"""How many rows each dataset took in, and how many went to quarantine."""

from __future__ import annotations

from libs.telemetry import Instruments


class AppendCounts:
    """Counts since the service started. Belongs to the event loop."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, ...], float] = {}
        self._quarantined: dict[tuple[str, ...], float] = {}

    def add(self, dataset_id: str, rows: int, quarantined: int) -> None:
        """Count an append that was committed; the datasets there may be are bounded."""
        key = (dataset_id,)
        self._rows[key] = self._rows.get(key, 0) + rows
        self._quarantined[key] = self._quarantined.get(key, 0) + quarantined

    def show(self, instruments: Instruments) -> None:
        """Show them."""
        label = ["dataset"]
        instruments.read_counter(
            "hedgerow_ingest_rows", "Rows that were appended, quarantined ones not counted.", self._rows.copy, label
        )
        instruments.read_counter(
            "hedgerow_ingest_quarantined_rows", "Rows that broke the contract.", self._quarantined.copy, label
        )
