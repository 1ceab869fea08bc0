"""Configuration of the features service, beyond what every service is told."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from libs.config import LakeConfig


class FeaturesConfig(LakeConfig):
    """Read from `HEDGEROW_…` environment variables."""

    service: str = "features"
    # Of the hot calls: the lane serves them for a fifth of the cost, and refuses what is too much for a ninth.
    transport: Literal["aio", "lane"] = Field(default="lane", description="What carries the calls of the port.")
    shared_dir: Path | None = Field(default=None, description="Folder of what all replicas work on, if there are any.")
    features_job_threads: int = Field(default=1, ge=1, le=16, description="Jobs computed at once.")
    features_max_jobs: int = Field(default=16, ge=1, le=1024, description="Jobs that may run or wait.")
    features_read_threads: int = Field(default=2, ge=1, le=16, description="Offline answers computed at once.")
    features_waiting_reads: int = Field(default=16, ge=0, le=1024, description="Offline answers that may wait.")
    features_memory_limit_mib: int = Field(default=512, ge=64, description="Memory of one computation.")
    features_online_size_mib: int = Field(default=4096, ge=16, description="The most that the online store may hold.")
    online_url: str = Field(
        default="",
        repr=False,
        description="`rediss://host:port/0?ssl_ca_certs=/…` of a Valkey whose database nothing else uses; empty for LMDB.",
    )
    online_password_file: Path | None = Field(default=None, description="File with the password for `online_url`.")

    @model_validator(mode="after")
    def _check_shared(self) -> Self:
        if self.shared_dir and not (self.database_url and self.online_url):
            raise ValueError("shared_dir is for replicas, which need database_url and online_url too")
        if self.workers > 1 and not self.shared_dir:
            raise ValueError("several workers need the stores of replicas: shared_dir, database_url and online_url")
        return self
