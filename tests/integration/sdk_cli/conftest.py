"""The command against running servers, as Ana."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from hedgerow.cli.__main__ import main
from hedgerow.sdk import Context
from tests.integration.sdk.mirror import Mirror, mirrored
from tests.support.authority import folder


@dataclass
class Ran:
    """What a run of the command left."""

    code: int
    out: str
    err: str


Run = Callable[..., Awaitable[Ran]]


@pytest.fixture
async def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mirror]:
    monkeypatch.delenv("HEDGEROW_USER", raising=False)
    async with mirrored(tmp_path / "suite") as suite:
        context = Context(tmp_path / "context", suite.addresses, "127.0.0.1:1")
        context.save(suite.authority.roots_pem)
        folder(context.identity("ana").folder, suite.authority.user("ana"))
        monkeypatch.setenv("HEDGEROW_CONTEXT", str(context.folder))
        yield suite.mirror


@pytest.fixture
def run(mirror: Mirror, capsys: pytest.CaptureFixture[str]) -> Run:
    async def command(*arguments: str) -> Ran:
        capsys.readouterr()
        code = await asyncio.to_thread(main, arguments)
        told = capsys.readouterr()
        return Ran(code, told.out, told.err)

    return command
