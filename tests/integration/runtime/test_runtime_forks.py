"""GRPC-08: with a live server and channel, children are spawned, and a fork is seen."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.forking import FORKED, LOADED

ROOT = Path(__file__).resolve().parents[3]
EVENT = "forked_after_grpc_started"


@pytest.mark.parametrize("transport", ["aio", "lane"])
def test_children_leave_server_and_channel_alone_and_a_fork_is_logged(tmp_path: Path, transport: str) -> None:
    """Workers of a data loader and a subprocess do not fork; what does is named, and the channel outlives it."""
    result = subprocess.run(
        [sys.executable, "-m", "tests.support.forking", str(tmp_path), transport],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    before, loaded, after = result.stderr.partition(LOADED)
    assert loaded
    assert EVENT not in before
    assert after.partition(FORKED)[0].count(EVENT) == 1
    assert FORKED in after
