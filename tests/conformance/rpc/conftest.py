"""One suite for both transports: what a caller can see must not tell which one carries the call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.rpc.interop import InteropEcho
from tests.support.echo import echo_service
from tests.support.serving import Served, serving
from tests.support.transports import transport

__all__ = ["echo", "served", "transport"]


@pytest.fixture
def echo() -> InteropEcho:
    """The handlers."""
    return InteropEcho()


@pytest.fixture
async def served(tmp_path: Path, transport: str, echo: InteropEcho) -> AsyncIterator[Served]:
    """A server with them."""
    async with serving(tmp_path, [echo_service(echo)]) as running:
        yield running
