"""AUD-01 and AUD-02 on the real database: concurrent callers, times of nine digits, equal times, a clock set back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from libs.audit import AuditEvent, AuditLimits, AuditWriter
from services.governance.trail import AuditTrail
from tests.support.audit_sink import DATA_KEY, Sink
from tests.support.audit_trail import event
from tests.support.governance import database, make_trail

HOUR_NS = 3_600_000_000_000
NOW_NS = 1_795_000_000_123_456_789


@asynccontextmanager
async def running(tmp_path: Path) -> AsyncIterator[tuple[AuditTrail, AuditWriter]]:
    """An empty trail on SQLCipher and a writer that ships to it."""
    with database(tmp_path) as opened:
        audit, sink = make_trail(opened, tmp_path), Sink()
        await audit.start()

        async def ship(name: str, content: bytes, checkpoint: str) -> None:
            await audit.put("ingestion", name.removeprefix("auditSegments/"), content, checkpoint)

        writer = AuditWriter(
            tmp_path / "audit", service="ingestion", data_key=DATA_KEY, sign=sink.sign, public_keys=sink.public_keys,
            ship=ship, limits=AuditLimits(segment_bytes=500_000, upkeep_seconds=3600),
        )  # fmt: skip
        await writer.start()
        try:
            yield audit, writer
        finally:
            await writer.close()


async def stored(audit: AuditTrail) -> dict[int, AuditEvent]:
    """The index, by sequence, read in pages."""
    found: dict[int, AuditEvent] = {}
    position = None
    while rows := await audit.events(position, 1000, actor="", action="", decision=""):
        found |= {item.sequence: item.event for _, item in rows}
        position = (rows[-1][1].event.event_time_ns, rows[-1][0])
    return found


async def test_twenty_writers_of_500_records_make_one_chain_that_verifies(tmp_path: Path) -> None:
    """AUD-01."""
    async with running(tmp_path) as (audit, writer):
        empty = await audit.verify()
        assert (empty.verified, empty.segment_count, empty.event_count) == (True, 0, 0)

        async def write(number: int) -> None:
            for step in range(500):
                await writer.append(event(number * 500 + step))

        await asyncio.gather(*(write(number) for number in range(20)))
        await writer.seal()
        report = await audit.verify()
        assert (report.verified, report.event_count, report.faults) == (True, 10_000, ())
        assert report.segment_count > 1
        assert {name.split("-")[1] async for name in audit._names()} == {writer.head().instance}
        found = await stored(audit)
        assert sorted(found) == list(range(1, 10_001))
        assert sorted(found.values()) == [event(number) for number in range(10_000)]
        assert len({item.event_time_ns % 1_000_000_000 for item in found.values()}) == 10_000


async def test_order_is_the_sequence_and_not_the_time(tmp_path: Path) -> None:
    """AUD-02."""
    same = [event(number, event_time_ns=NOW_NS) for number in range(100)]
    earlier = [event(number, event_time_ns=NOW_NS - HOUR_NS) for number in range(100, 200)]
    async with running(tmp_path) as (audit, writer):
        for made in same + earlier:
            writer.append_nowait(made)
        await writer.seal()
        assert (await audit.verify()).verified
        found = await stored(audit)
        assert [found[sequence] for sequence in range(1, 201)] == same + earlier
