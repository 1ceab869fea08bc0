"""Configuration of the governance service."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from libs.config import ServiceConfig


class GovernanceConfig(ServiceConfig):
    """What governance is told beside what every service is; from ``HEDGEROW_…`` variables."""

    service: str = "governance"
    log_dir: Path | None = Field(
        default=None, description="Folder of the suite's logs, searched by erasures; without it no erasure succeeds."
    )
    erasures_at_once: int = Field(default=2, ge=1, le=16, description="Erasures at work at once.")
    erasures_waiting: int = Field(default=64, ge=0, le=10_000, description="Erasures that may wait.")
    erase_seconds: float = Field(default=600.0, gt=0, description="Deadline of one service's part of an erasure.")
    seal_wait_seconds: float = Field(
        default=15.0, gt=0, description="How long a verification waits for live writers to seal and ship."
    )
