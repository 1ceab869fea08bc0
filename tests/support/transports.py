"""A fixture that runs a suite once on each transport; import it in the suite's ``conftest.py``."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, params=["aio", "lane"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What carries the calls of servers that a test starts."""
    monkeypatch.setattr("tests.support.serving.TRANSPORT", request.param)
    return str(request.param)
