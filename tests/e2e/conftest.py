"""Callers of the whole suite, shared by the tests of a module."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.e2e.calling import Callers
from tests.support.suite import RunningSuite


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def callers(whole_suite: RunningSuite) -> AsyncIterator[Callers]:
    """Channels for any caller to any port; the tests that use them run on the module's loop."""
    opened = Callers(whole_suite)
    yield opened
    await opened.close()
