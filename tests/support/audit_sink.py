"""A signing key and a taker of segments for tests of the audit writer."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from libs.audit import AuditEvent, AuditLimits, AuditWriter, SealedSegment, VerificationReport, verify_segments
from libs.audit.segment import SegmentReader
from tests.support.audit_trail import KEY, PUBLIC_KEY

DATA_KEY = bytes(range(32))
QUICK = AuditLimits(
    flush_seconds=0.005, fold_seconds=0.02, durable_seconds=10.0, retry_seconds=0.01, upkeep_seconds=3600
)


class Sink:
    """Signs, and takes segments over unless `fault` is set."""

    def __init__(self) -> None:
        self.segments: dict[str, SealedSegment] = {}
        self.sign_fault: Exception | None = None
        self.ship_fault: Exception | None = None

    async def sign(self, payload: bytes) -> tuple[bytes, int]:
        """See `Sign`."""
        if self.sign_fault is not None:
            raise self.sign_fault
        return KEY.sign(payload), 1

    async def public_keys(self) -> dict[int, bytes]:
        """See `PublicKeys`."""
        return {1: PUBLIC_KEY}

    async def ship(self, name: str, content: bytes, checkpoint: str) -> None:
        """See `Ship`."""
        if self.ship_fault is not None:
            raise self.ship_fault
        self.segments[name] = SealedSegment(name, content, checkpoint)

    def writer(self, directory: Path, **options: Any) -> AuditWriter:
        """A writer that ships here."""
        options.setdefault("limits", QUICK)
        return AuditWriter(
            directory,
            service="ingestion",
            data_key=DATA_KEY,
            sign=self.sign,
            public_keys=self.public_keys,
            ship=self.ship,
            **options,
        )

    @asynccontextmanager
    async def running(self, directory: Path, **options: Any) -> AsyncIterator[AuditWriter]:
        """A started writer, closed at the end."""
        writer = self.writer(directory, **options)
        await writer.start()
        try:
            yield writer
        finally:
            await writer.close()

    def report(self) -> VerificationReport:
        """Verifies what was shipped."""
        return verify_segments(self.segments.values(), {"ingestion": [PUBLIC_KEY]})

    def events(self) -> list[AuditEvent]:
        """All events shipped, by segment name and sequence."""
        return [item for name in sorted(self.segments) for _, item, _ in SegmentReader(self.segments[name].content)]


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds; the test's own time limit ends a wait in vain."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)
