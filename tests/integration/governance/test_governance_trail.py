"""The trail on a real database and vault: what is taken over, refused, verified and listed."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hedgerow.errors import AlreadyExistsError, InvalidArgumentError, PermissionDeniedError
from libs.audit import AuditBrokenError, AuditHead, AuditLimits, AuditWriter, SealedSegment
from libs.audit.segment import empty_state
from libs.sql import Database
from services.governance import trail as trail_module
from services.governance.held_segment import ReportedHead
from services.governance.store import TrailStore
from services.governance.subject_search import SearchResult, SubjectSearch
from services.governance.trail import AuditTrail
from services.governance.vault import SegmentVault
from tests.support.audit_sink import DATA_KEY, Sink
from tests.support.audit_trail import PUBLIC_KEY, event, seal, trail
from tests.support.governance import anchor_book, database, make_trail

OWNER = ("ingestion", "0123456789ab")


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    with database(tmp_path) as made:
        yield made


@pytest.fixture
async def audit(opened: Database, tmp_path: Path) -> AuditTrail:
    made = make_trail(opened, tmp_path)
    await made.start()
    return made


async def put(audit: AuditTrail, segment: SealedSegment) -> int:
    return await audit.put("ingestion", *segment)


async def test_segments_are_taken_over_once_and_verify(audit: AuditTrail) -> None:
    for segment in trail(3, 4):
        assert await put(audit, segment) == 4
        assert await put(audit, segment) == 4
    report = await audit.verify()
    assert (report.verified, report.segment_count, report.event_count) == (True, 3, 12)
    assert [item async for item in audit.export()] == trail(3, 4)


async def test_a_restart_knows_what_is_held(audit: AuditTrail, opened: Database, tmp_path: Path) -> None:
    await put(audit, trail(1, 4)[0])
    again = make_trail(opened, tmp_path)
    await again.start()
    assert await put(again, trail(2, 4)[1]) == 4
    assert (await again.verify()).event_count == 8


async def test_segments_are_encrypted_on_disk(audit: AuditTrail, tmp_path: Path) -> None:
    await put(audit, trail(1, 4)[0])
    (path,) = (tmp_path / "segments").iterdir()
    assert b"spiffe" not in path.read_bytes()
    assert path.stat().st_mode & 0o777 == 0o600
    assert (path.parent.stat().st_mode & 0o777) == 0o700


async def test_a_changed_segment_is_refused_with_its_place(audit: AuditTrail) -> None:
    segment = trail(1, 4)[0]
    changed = bytearray(segment.content)
    changed[-40] ^= 1
    with pytest.raises(AuditBrokenError) as caught:
        await put(audit, segment._replace(content=bytes(changed)))
    assert (caught.value.code_name, caught.value.reason) == ("FAILED_PRECONDITION", "AUDIT_BROKEN")
    assert caught.value.metadata == {"segment": segment.name, "record": "4"}
    assert (await audit.verify()).segment_count == 0


async def test_a_service_ships_its_own_segments_only(audit: AuditTrail) -> None:
    segment = trail(1, 4)[0]
    with pytest.raises(PermissionDeniedError):
        await audit.put("features", *segment)
    with pytest.raises(AuditBrokenError):
        await audit.put("features", segment.name.replace("ingestion", "features"), segment.content, segment.checkpoint)


async def test_another_segment_of_the_same_name_is_refused(audit: AuditTrail) -> None:
    await put(audit, seal([event(1)])[0])
    with pytest.raises(AlreadyExistsError):
        await put(audit, seal([event(2)])[0])


async def test_forks_and_overlaps_are_refused(audit: AuditTrail) -> None:
    first, _ = seal([event(1), event(2)])
    await put(audit, first)
    _, forked_state = seal([event(1), event(3)])
    with pytest.raises(AuditBrokenError, match="does not continue"):
        await put(audit, seal([event(4)], forked_state)[0])
    _, short_state = seal([event(1)])
    with pytest.raises(AuditBrokenError, match="holds the same events"):
        await put(audit, seal([event(5)], short_state)[0])


async def test_an_empty_or_huge_segment_is_refused(audit: AuditTrail) -> None:
    with pytest.raises(AuditBrokenError, match="no event"):
        await put(audit, seal([], empty_state())[0])
    name = trail(1, 1)[0].name
    with pytest.raises(InvalidArgumentError):
        await audit.put("ingestion", name, bytes(3 * 1024 * 1024 + 1), "")
    with pytest.raises(InvalidArgumentError):
        await audit.put("ingestion", name, b"", "x" * 4097)


async def test_a_gap_is_taken_over_and_reported(audit: AuditTrail) -> None:
    first, second, third = trail(3, 4)
    await put(audit, first)
    await put(audit, third)
    report = await audit.verify()
    assert [str(fault) for fault in report.faults] == [f"{third.name}, event 5: events 5 to 8 before it are missing"]
    await put(audit, second)
    assert (await audit.verify()).verified


async def test_a_changed_or_missing_file_is_reported(audit: AuditTrail, tmp_path: Path) -> None:
    first, second = trail(2, 4)
    await put(audit, first)
    await put(audit, second)
    path = tmp_path / "segments" / f"{first.name}.sealed"
    changed = bytearray(path.read_bytes())
    changed[100] ^= 1
    path.write_bytes(changed)
    (tmp_path / "segments" / f"{second.name}.sealed").unlink()
    report = await audit.verify()
    assert [(fault.segment, fault.reason) for fault in report.faults] == [
        (first.name, f"the stored segment {first.name} does not authenticate: its file was changed"),
        (second.name, f"the stored segment {second.name} is missing"),
    ]


async def test_files_cannot_change_places(audit: AuditTrail, tmp_path: Path) -> None:
    first, second = trail(2, 4)
    await put(audit, first)
    await put(audit, second)
    one, other = (tmp_path / "segments" / f"{item.name}.sealed" for item in (first, second))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    assert len((await audit.verify()).faults) == 2


async def test_a_silent_writer_with_events_missing_is_a_fault(audit: AuditTrail) -> None:
    segment, state = seal([event(1), event(2)])
    assert not await audit.report("ingestion", ReportedHead(OWNER, 5, bytes(32), report_ns=1))
    await put(audit, segment)
    report = await audit.verify()
    assert [(fault.segment, fault.sequence) for fault in report.faults] == [("ingestion-0123456789ab", 3)]
    assert state.next_sequence == 3


async def test_a_live_writer_may_have_events_to_come(audit: AuditTrail) -> None:
    await audit.report("ingestion", ReportedHead.now(OWNER, 5, bytes(32)))
    assert (await audit.verify()).verified


async def test_a_chain_that_lost_its_tail_is_found(audit: AuditTrail) -> None:
    await audit.report("ingestion", ReportedHead.now(OWNER, 5, b"a" * 32))
    for shorter in (ReportedHead.now(OWNER, 4, b"a" * 32), ReportedHead.now(OWNER, 5, b"b" * 32)):
        with pytest.raises(AuditBrokenError):
            await audit.report("ingestion", shorter)


async def test_a_segment_must_hold_the_head_that_was_reported(audit: AuditTrail) -> None:
    await audit.report("ingestion", ReportedHead.now(OWNER, 2, bytes(32)))
    with pytest.raises(AuditBrokenError) as caught:
        await put(audit, seal([event(1), event(2)])[0])
    assert caught.value.sequence == 2


async def test_heads_are_checked(audit: AuditTrail) -> None:
    with pytest.raises(PermissionDeniedError):
        await audit.report("features", ReportedHead.now(OWNER, 1, bytes(32)))
    with pytest.raises(InvalidArgumentError):
        await audit.report("ingestion", ReportedHead.now(OWNER, 1, bytes(31)))
    with pytest.raises(InvalidArgumentError):
        await audit.report("ingestion", ReportedHead.now(OWNER, -1, bytes(32)))


async def test_sealing_first_waits_for_every_live_writer(audit: AuditTrail, tmp_path: Path) -> None:
    async def ship(name: str, content: bytes, checkpoint: str) -> None:
        await audit.put("ingestion", name.removeprefix("auditSegments/"), content, checkpoint)

    async def report(head: AuditHead) -> bool:
        owner = (head.service, head.instance)
        return await audit.report("ingestion", ReportedHead.now(owner, head.sequence, head.chain_hash))

    sink = Sink()
    limits = AuditLimits(upkeep_seconds=0.02, fold_seconds=3600)
    writers = []
    for _ in range(2):
        writer = AuditWriter(
            tmp_path / "audit", service="ingestion", data_key=DATA_KEY, sign=sink.sign, public_keys=sink.public_keys,
            ship=ship, report=report, limits=limits,
        )  # fmt: skip
        await writer.start()
        writers.append(writer)
        await writer.append(event(1))
    while len(audit._heads) < 2:
        await asyncio.sleep(0.01)
    for writer in writers:
        writer.fold(event(2))
    assert await audit.gather(20) == []
    report_now = await audit.verify()
    assert (report_now.verified, report_now.event_count) == (True, 4)
    for writer in writers:
        await writer.close()


async def test_a_live_writer_that_does_not_seal_is_a_fault(audit: AuditTrail) -> None:
    await audit.report("ingestion", ReportedHead.now(OWNER, 5, bytes(32)))
    late = await audit.gather(0.02)
    report = await audit.verify(late)
    assert [fault.segment for fault in report.faults] == ["ingestion-0123456789ab"]
    assert "did not seal" in report.faults[0].reason


async def test_a_writer_that_ends_meanwhile_is_not_waited_for(
    audit: AuditTrail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trail_module, "LIVE_SECONDS", 0.05)
    monkeypatch.setattr(trail_module, "_LOOK_SECONDS", 0.01)
    await audit.report("ingestion", ReportedHead.now(OWNER, 5, bytes(32)))
    assert await audit.gather(20) == []
    assert [fault.sequence for fault in (await audit.verify()).faults] == [1]


async def test_events_are_listed_newest_first_in_pages(audit: AuditTrail) -> None:
    await put(audit, seal([event(number) for number in range(5)])[0])
    await put(audit, seal([event(7, actor="mia", decision="deny"), event(6)], instance="ba9876543210")[0])
    listed: list[str] = []
    position = None
    while rows := await audit.events(position, 2, actor="", action="", decision=""):
        listed += [stored.event.request_id.lstrip("0") or "0" for _, stored in rows]
        position = (rows[-1][1].event.event_time_ns, rows[-1][0])
    assert listed == ["7", "6", "4", "3", "2", "1", "0"]
    (_, stored), *rest = await audit.events(None, 10, actor="mia", action="", decision="deny")
    assert rest == []
    assert (stored.service, stored.instance, stored.sequence) == ("ingestion", "ba9876543210", 1)
    assert stored.event == event(7, actor="mia", decision="deny")
    assert await audit.events(None, 10, actor="", action="other", decision="") == []


async def test_the_trail_is_searched(audit: AuditTrail) -> None:
    await put(audit, seal([event(1), event(2, resources=("clients/client-7",))])[0])
    assert await audit.search(SubjectSearch(["client-7"])) == SearchResult(objects=1, hits=1)
    assert await audit.search(SubjectSearch(["client-8"])) == SearchResult(objects=1, hits=0)


async def test_a_key_newer_than_the_ones_remembered_is_found(opened: Database, tmp_path: Path) -> None:
    asked: list[bool] = []

    async def keys(service: str, *, fresh: bool = False) -> list[bytes]:
        asked.append(fresh)
        return [PUBLIC_KEY] if fresh else []

    store = TrailStore(opened)
    audit = AuditTrail(store, SegmentVault(tmp_path / "segments", DATA_KEY), keys, anchor_book(store))
    await audit.start()
    assert await put(audit, trail(1, 2)[0]) == 2
    assert asked == [False, True]
