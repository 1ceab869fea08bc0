"""Retention: what is too old goes, behind a signed anchor, and what remains verifies."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from libs.audit import AnchorKind, SealedSegment
from libs.audit.segment import empty_state
from libs.sql import Database
from services.governance.retention import DAY_SECONDS, Retention
from services.governance.store import TrailStore
from services.governance.trail import AuditTrail
from services.governance.vault import SegmentVault
from tests.support.audit_trail import event, seal
from tests.support.governance import DATA_KEY, anchor_book, audit_keys, database, make_trail

DAY_NS = DAY_SECONDS * 10**9
NOW_NS = 1_795_000_000_123_456_789
OWNER = ("ingestion", "0123456789ab")
GOVERNANCE = "spiffe://hedgerow.local/service/governance"


def aged(*ages: int) -> list[SealedSegment]:
    """A chain of segments of three events each, so many days old."""
    made, state = [], empty_state()
    for number, age in enumerate(ages):
        events = [event(3 * number + step, event_time_ns=NOW_NS - age * DAY_NS) for step in range(3)]
        segment, state = seal(events, state)
        made.append(segment)
    return made


@dataclass
class Parts:
    """A trail, its retention, and where its files are."""

    opened: Database
    folder: Path
    audit: AuditTrail
    retention: Retention

    async def hold(self, segments: list[SealedSegment], arrived_days_ago: int = 500) -> None:
        for segment in segments:
            await self.audit.put("ingestion", *segment)
            arrival = NOW_NS - arrived_days_ago * DAY_NS
            os.utime(self.folder / f"{segment.name}.sealed", ns=(arrival, arrival))

    def files(self) -> int:
        return len(list(self.folder.iterdir()))

    async def events(self) -> list[int]:
        rows = await self.audit.events(None, 100, actor="", action="", decision="")
        return sorted(stored.sequence for _, stored in rows)


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[Parts]:
    with database(tmp_path) as opened:
        audit = make_trail(opened, tmp_path)
        await audit.start()
        store, folder = TrailStore(opened), tmp_path / "segments"
        retention = Retention(
            store, SegmentVault(folder, DATA_KEY), audit_keys, anchor_book(store), audit.unchanging,
            days=400, actor=GOVERNANCE,
        )  # fmt: skip
        yield Parts(opened, folder, audit, retention)


async def test_what_is_too_old_goes_and_the_rest_verifies(parts: Parts) -> None:
    await parts.hold(aged(410, 401, 399, 1))
    assert await parts.retention.expire(NOW_NS) == 2
    assert (parts.files(), await parts.events()) == (2, [7, 8, 9, 10, 11, 12])
    report = await parts.audit.verify()
    assert (report.verified, report.event_count) == (True, 6)
    (anchor,) = report.anchors
    assert (anchor.kind, anchor.first, anchor.last, anchor.actor) == (AnchorKind.EXPIRED, 1, 6, GOVERNANCE)
    assert await parts.retention.expire(NOW_NS) == 0
    assert await parts.retention.expire(NOW_NS + 5 * DAY_NS) == 1
    assert [(item.first, item.last) for item in (await parts.audit.verify()).anchors] == [(1, 9)]
    assert (await parts.audit.verify()).verified


async def test_the_last_segment_stays_for_the_chain_to_go_on(parts: Parts) -> None:
    segments = aged(500, 500, 500)
    await parts.hold(segments[:2])
    assert await parts.retention.expire(NOW_NS) == 1
    await parts.hold(segments[2:])
    assert await parts.retention.expire(NOW_NS) == 1
    assert (await parts.audit.verify()).verified


async def test_a_false_clock_of_a_writer_removes_nothing_early(parts: Parts) -> None:
    await parts.hold(aged(10_000, 10_000), arrived_days_ago=1)
    assert await parts.retention.expire(NOW_NS) == 0


async def test_a_gap_a_break_or_a_missing_file_is_kept_as_evidence(parts: Parts) -> None:
    segments = aged(500, 500, 500, 500)
    await parts.hold([segments[0], segments[2], segments[3]])
    assert await parts.retention.expire(NOW_NS) == 1
    assert [fault.sequence for fault in (await parts.audit.verify()).faults] == [4]
    await parts.hold([segments[1]])
    (parts.folder / f"{segments[1].name}.sealed").write_bytes(b"x" * 100)
    assert await parts.retention.expire(NOW_NS) == 0
    (parts.folder / f"{segments[1].name}.sealed").unlink()
    assert await parts.retention.expire(NOW_NS) == 0
    assert not (await parts.audit.verify()).verified


@pytest.mark.parametrize("call", ["remove_segment", "remove"])
async def test_an_interrupted_removal_verifies_and_is_taken_up(
    parts: Parts, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    await parts.hold(aged(410, 410, 410, 1))
    cls = TrailStore if call == "remove_segment" else SegmentVault
    original, calls = getattr(cls, call), 0

    def interrupt(self: object, *arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError("killed here")
        original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(cls, call, interrupt)
        with pytest.raises(OSError, match="killed"):
            await parts.retention.expire(NOW_NS)
    assert (await parts.audit.verify()).verified
    await parts.retention.expire(NOW_NS)
    assert (parts.files(), await parts.events()) == (1, [10, 11, 12])
    assert (await parts.audit.verify()).verified


async def test_a_round_that_fails_does_not_end_the_upkeep(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def fail(now_ns: int) -> int:
        asked.set()
        raise OSError("the disk is away")

    monkeypatch.setattr(parts.retention, "expire", fail)
    task = asyncio.create_task(parts.retention.run())
    await asked.wait()
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
