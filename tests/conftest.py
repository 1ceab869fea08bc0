"""What tests of all kinds share: one real suite for the whole session, started by the first test that asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.gym import Gym
    from tests.support.suite import RunningSuite


@pytest.fixture(scope="session")
def whole_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    """All services under a real supervisor; a test that kills one waits until it is back."""
    from tests.support.suite import whole_suite

    with whole_suite(tmp_path_factory.mktemp("whole") / "suite") as running:
        yield running


@pytest.fixture(scope="session")
def gym(whole_suite: RunningSuite) -> Gym:
    """An application that went the whole path on that suite and serves."""
    from tests.support.gym import open_gym

    return asyncio.run(open_gym(whole_suite))
