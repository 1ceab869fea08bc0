"""Configuration of the governance service."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from libs.config import ServiceConfig


def _paths(value: Any) -> Any:
    return [Path(part) for part in value.split(os.pathsep) if part] if isinstance(value, str) else value


class GovernanceConfig(ServiceConfig):
    """What governance is told beside what every service is; from ``HEDGEROW_…`` variables."""

    service: str = "governance"
    log_dir: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_paths)] = Field(
        default=(),
        description="Folders and files of the suite's logs and traces, between `:`, searched by erasures; without one no "
        "erasure succeeds.",
    )
    governance_retention_days: int = Field(default=400, ge=1, description="Days that audit segments are kept.")
    erasures_at_once: int = Field(default=2, ge=1, le=16, description="Erasures at work at once.")
    erasures_waiting: int = Field(default=64, ge=0, le=10_000, description="Erasures that may wait.")
    erase_seconds: float = Field(default=600.0, gt=0, description="Deadline of one service's part of an erasure.")
    seal_wait_seconds: float = Field(
        default=15.0, gt=0, description="How long a verification waits for live writers to seal and ship."
    )
