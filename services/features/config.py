"""Configuration of the features service, beyond what every service is told."""

from __future__ import annotations

from pydantic import Field

from libs.config import ServiceConfig


class FeaturesConfig(ServiceConfig):
    """Read from `HEDGEROW_…` environment variables."""

    service: str = "features"
    features_job_threads: int = Field(default=1, ge=1, le=16, description="Jobs computed at once.")
    features_max_jobs: int = Field(default=16, ge=1, le=1024, description="Jobs that may run or wait.")
    features_read_threads: int = Field(default=2, ge=1, le=16, description="Offline answers computed at once.")
    features_waiting_reads: int = Field(default=16, ge=0, le=1024, description="Offline answers that may wait.")
    features_memory_limit_mib: int = Field(default=512, ge=64, description="Memory of one computation.")
    features_online_size_mib: int = Field(default=4096, ge=16, description="The most that the online store may hold.")
