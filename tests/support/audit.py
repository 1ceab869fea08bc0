"""A real audit writer for tests, signed by a key of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from libs.audit import AuditEvent, AuditWriter


class Shipped:
    """Takes sealed segments over and remembers them."""

    def __init__(self) -> None:
        self.segments: dict[str, tuple[bytes, str]] = {}

    async def __call__(self, name: str, content: bytes, checkpoint: str) -> None:
        """Take one segment over."""
        self.segments[name] = (content, checkpoint)


class RecordingWriter(AuditWriter):
    """The real writer, which also lets a test look at the events that passed."""

    events: list[AuditEvent]

    async def append(self, event: AuditEvent) -> None:
        """Remember and write."""
        self.events.append(event)
        await super().append(event)

    def append_nowait(self, event: AuditEvent) -> None:
        """Remember and write."""
        self.events.append(event)
        super().append_nowait(event)

    def fold(self, event: AuditEvent) -> None:
        """Remember and write."""
        self.events.append(event)
        super().fold(event)


@asynccontextmanager
async def audit_writer(
    directory: Path, *, service: str = "test", kind: type[AuditWriter] = AuditWriter
) -> AsyncIterator[AuditWriter]:
    """Yield a started writer of the given kind."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    async def sign(payload: bytes) -> tuple[bytes, int]:
        return key.sign(payload), 1

    async def public_keys() -> dict[int, bytes]:
        return {1: public}

    writer = kind(
        directory, service=service, data_key=os.urandom(32), sign=sign, public_keys=public_keys, ship=Shipped()
    )
    if isinstance(writer, RecordingWriter):
        writer.events = []
    await writer.start()
    try:
        yield writer
    finally:
        await writer.close()
