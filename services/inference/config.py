"""What inference is told, beside what every service is."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from libs.config import ServiceConfig
from services.inference.batching import BatchLimits
from services.inference.model_runtime import RuntimeLimits


class InferenceConfig(ServiceConfig):
    """Bounds of predictions and explanations, from ``HEDGEROW_…`` variables."""

    # Of the hot calls: the lane serves them for a fifth of the cost, and refuses what is too much for a ninth.
    transport: Literal["aio", "lane"] = Field(default="lane", description="What carries the calls of the port.")
    predict_threads: int = Field(default=2, ge=1, le=64, description="Batches run at once over all models.")
    batch_rows: int = Field(default=256, ge=1, le=65_536, description="Rows stacked into one batch.")
    request_rows: int = Field(default=4096, ge=1, le=65_536, description="Rows of one tensor request.")
    queue_requests: int = Field(default=1024, ge=1, description="Requests waiting for one model.")
    queue_rows: int = Field(default=65_536, ge=1, description="Rows waiting for one model.")
    shared_dir: Path | None = Field(
        default=None, description="Folder of the artifacts that all replicas serve, if any."
    )
    explain_waiting: int = Field(default=16, ge=1, le=1024, description="Explanations in progress or waiting.")

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        if self.shared_dir and not self.database_url:
            raise ValueError("shared_dir is for replicas, which need database_url too")
        return self

    def limits(self) -> RuntimeLimits:
        """Return the bounds of the model runtime."""
        batch = BatchLimits(self.batch_rows, self.queue_requests, self.queue_rows)
        return RuntimeLimits(batch, self.predict_threads, self.explain_waiting)
