"""A data key that all replicas of this service have: the first one makes it, and the others find it wrapped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from pathlib import Path
from typing import Protocol

from hedgerow.private_file import write_private


class DataKeys(Protocol):
    """What it needs of the secrets service."""

    async def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        """Return a fresh data key in clear and wrapped."""

    async def unwrap(self, key: str, wrapped: bytes, grant: str = "") -> bytes:
        """Return a data key in clear."""


async def shared_data_key(secrets: DataKeys, key: str, path: Path) -> bytes:
    """Return the data key whose wrapped form is in a file of all replicas, made under ``key`` when it is not there yet.

    Raises:
        HedgerowError: as the secrets service states.
    """
    if not await asyncio.to_thread(path.exists):
        _, wrapped = await secrets.create_data_key(key)
        await asyncio.to_thread(_keep_first, path, wrapped)
    return await secrets.unwrap(key, await asyncio.to_thread(path.read_bytes))


def _keep_first(path: Path, content: bytes) -> None:
    """Write a file unless another replica was faster; never seen half written."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_suffix(f".{uuid.uuid4().hex}")
    write_private(draft, content)
    with contextlib.suppress(FileExistsError):
        os.link(draft, path)
    draft.unlink()
