"""The mirror of the suite."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.integration.sdk.mirror import Suite, mirrored


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    async with mirrored(tmp_path) as served:
        yield served
