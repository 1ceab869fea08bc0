"""What governance is told."""

import os
from pathlib import Path

import pytest

from services.governance.config import GovernanceConfig


@pytest.mark.parametrize(
    ("value", "paths"),
    [
        (None, ()),
        ("", ()),
        ("/logs", ("/logs",)),
        (os.pathsep.join(("/logs", "/a/t.jsonl", "")), ("/logs", "/a/t.jsonl")),
    ],
)
def test_logs_may_be_in_several_places(
    monkeypatch: pytest.MonkeyPatch, value: str | None, paths: tuple[str, ...]
) -> None:
    for name in ("LISTEN", "DATA_DIR", "TRUST_DIR"):
        monkeypatch.setenv(f"HEDGEROW_{name}", "x")
    if value is not None:
        monkeypatch.setenv("HEDGEROW_LOG_DIR", value)
    config = GovernanceConfig()  # type: ignore[call-arg]
    assert config.log_dir == tuple(map(Path, paths))
    assert config.governance_retention_days == 400
