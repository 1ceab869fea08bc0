"""How training runs go: how many wait, and how they ended."""

from __future__ import annotations

from collections.abc import Callable

from libs.telemetry import Instruments
from services.training.records import RunState


class RunCounts:
    """Counts since the service started. Belongs to the event loop."""

    def __init__(self, waiting: Callable[[], int]) -> None:
        """Take how many runs wait."""
        self._waiting = waiting
        self._ended: dict[tuple[str, ...], float] = {
            (state.name,): 0.0 for state in (RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED)
        }

    def ended(self, state: RunState) -> None:
        """Count a run that ended."""
        self._ended[state.name,] += 1

    def show(self, instruments: Instruments) -> None:
        """Show them."""
        instruments.read_counter(
            "hedgerow_training_runs", "Training runs that ended, by state.", self._ended.copy, ["state"]
        )
        instruments.read_gauge(
            "hedgerow_training_runs_waiting", "Training runs that wait for their turn.", lambda: {(): self._waiting()}
        )
