"""Configuration of the training service, beyond what every service is told."""

from __future__ import annotations

from pydantic import Field

from libs.config import ServiceConfig
from services.training.launch import Limits


class TrainingConfig(ServiceConfig):
    """Read from ``HEDGEROW_…`` environment variables."""

    service: str = "training"
    training_waiting_runs: int = Field(default=16, ge=1, le=1024, description="Runs that may wait for their turn.")
    training_max_rows: int = Field(default=5_000_000, ge=1, description="Rows of one training set.")
    training_stall_seconds: float = Field(default=120.0, gt=0, description="Silence after which a run is ended.")
    training_run_seconds: float = Field(default=3600.0, gt=0, description="Time that the ranks of a run may take.")

    def limits(self) -> Limits:
        """Return how long a training process may take."""
        return Limits(self.training_stall_seconds, self.training_run_seconds)
