"""Configuration of the ingestion service."""

from __future__ import annotations

import datetime as dt
from typing import Self

from pydantic import Field, model_validator

from libs.config import LakeConfig
from services.ingestion.append import MIB, AppendLimits


class IngestionConfig(LakeConfig):
    """What the ingestion service is told beside what every service is; see ``ServiceConfig``."""

    service: str = "ingestion"
    # Appends to one dataset wait for one another, some 50 ms each: more of them in progress would outlive their deadlines.
    max_calls: int = Field(default=64, ge=1, description="Calls in progress before new ones are refused.")
    lake_location: str = Field(
        default="",
        pattern="^(file:///.+|(s3|az|gs)://[^/?#]+/[^?#]+)?$",
        description="Where the lake is, such as `s3://bucket/prefix`; empty for `lake` in the data folder.",
    )
    append_max_mib: int = Field(default=256, ge=1, description="Rows of one append, in memory.")
    appends_total_mib: int = Field(default=512, ge=1, description="Rows of all appends under way, in memory.")
    append_max_rows: int = Field(default=20_000_000, ge=1, description="Rows of one append.")
    append_max_quarantined_rows: int = Field(
        default=100_000, ge=0, description="Rows of one append that may break the contract before it is refused."
    )
    grant_seconds: int = Field(default=900, ge=1, le=86_400, description="How long a snapshot can be read.")
    max_datasets: int = Field(default=1000, ge=1, description="Datasets at most.")
    orphan_age_seconds: float = Field(
        default=0.0,
        ge=0,
        description="Age at which a file that no version lists goes; 0 where only this process writes.",
    )
    lake_threads: int = Field(default=4, ge=1, le=64, description="Threads for work on the lake.")

    @model_validator(mode="after")
    def _check_memory(self) -> Self:
        if self.appends_total_mib < self.append_max_mib:
            raise ValueError("appends_total_mib must be at least append_max_mib")
        return self

    def append_limits(self) -> AppendLimits:
        """Bounds of an append."""
        return AppendLimits(
            max_bytes=self.append_max_mib * MIB,
            max_total_bytes=self.appends_total_mib * MIB,
            max_rows=self.append_max_rows,
            max_quarantined_rows=self.append_max_quarantined_rows,
        )

    @property
    def grant_life(self) -> dt.timedelta:
        """How long a snapshot can be read."""
        return dt.timedelta(seconds=self.grant_seconds)
