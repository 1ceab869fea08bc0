"""Losses that an operator accepts, on a real database and vault: signed, listed by every verification, nothing more."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import FailedPreconditionError, InvalidArgumentError
from libs.audit import AuditBrokenError, AuditHead, AuditLimits, AuditWriter, verify_segments
from libs.audit.anchor import ANCHOR_KEYS
from libs.audit.reanchor import accept_break
from libs.sql import Database
from services.governance.held_segment import ReportedHead
from services.governance.store import TrailStore
from services.governance.trail import AuditTrail
from tests.support.audit_sink import DATA_KEY, Sink
from tests.support.audit_trail import PUBLIC_KEY, event, seal, trail
from tests.support.authority import Authority, user_id
from tests.support.governance import SIGNING_KEY, database, make_trail

OWNER = ("ingestion", "0123456789ab")
OPERATOR = user_id("operator")
LONG_AGO = 1


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    with database(tmp_path) as made:
        yield made


@pytest.fixture
async def audit(opened: Database, tmp_path: Path) -> AuditTrail:
    made = make_trail(opened, tmp_path)
    await made.start()
    return made


async def accept(audit: AuditTrail, sequence: int, **changes: Any) -> Any:
    return await audit.accept_loss(OWNER, sequence, **{"actor": OPERATOR, "reason": "disk 3, ticket 7"} | changes)


async def faults(audit: AuditTrail) -> list[int | None]:
    report = await audit.verify()
    assert report.verified == (not report.faults)
    return [fault.sequence for fault in report.faults]


async def lose_a_tail(audit: AuditTrail) -> None:
    """Holds events 1 to 4 of a chain that was durable up to 9 and is silent."""
    await audit.put("ingestion", *trail(1, 4)[0])
    await audit.report("ingestion", ReportedHead(OWNER, 9, bytes(32), LONG_AGO))


async def test_a_lost_tail_is_a_fault_until_it_is_accepted_and_listed_ever_after(
    audit: AuditTrail, opened: Database, tmp_path: Path
) -> None:
    await lose_a_tail(audit)
    assert await faults(audit) == [5]
    anchor = await accept(audit, 4)
    assert (anchor.first, anchor.last, anchor.actor, anchor.reason) == (5, 9, OPERATOR, "disk 3, ticket 7")
    assert await accept(audit, 4, reason="again") == anchor
    again = make_trail(opened, tmp_path)
    await again.start()
    for process in (audit, again):
        report = await process.verify()
        assert (report.verified, report.anchors) == (True, (anchor,))


async def test_an_accepted_gap_is_verified_elsewhere_too(audit: AuditTrail) -> None:
    first, _, third = trail(3, 4)
    await audit.put("ingestion", *first)
    await audit.put("ingestion", *third)
    await audit.report("ingestion", ReportedHead.now(OWNER, 12, third.content[-32:]))
    anchor = await accept(audit, 4)
    assert (anchor.first, anchor.last) == (5, 8)
    assert await faults(audit) == []
    exported = [segment async for segment in audit.export()]
    keys = {"ingestion": [PUBLIC_KEY], ANCHOR_KEYS: [SIGNING_KEY.public_key().public_bytes_raw()]}
    assert not verify_segments(exported, keys).verified
    assert verify_segments(exported, keys, (await audit.anchor_notes()).values()).verified


async def test_what_is_lost_later_is_another_fault(audit: AuditTrail) -> None:
    await lose_a_tail(audit)
    await accept(audit, 4)
    await audit.report("ingestion", ReportedHead(OWNER, 10, bytes(32), LONG_AGO))
    assert await faults(audit) == [5]
    assert (await accept(audit, 4)).last == 10
    assert await faults(audit) == []


async def test_tampering_elsewhere_is_still_found(audit: AuditTrail, tmp_path: Path) -> None:
    await lose_a_tail(audit)
    other = seal([event(1)], instance="ba9876543210")[0]
    await audit.put("ingestion", *other)
    await accept(audit, 4)
    for name in (trail(1, 4)[0].name, other.name):
        path = tmp_path / "segments" / f"{name}.sealed"
        content = bytearray(path.read_bytes())
        content[50] ^= 1
        path.write_bytes(content)
        report = await audit.verify()
        assert name in {fault.segment for fault in report.faults}


async def test_what_was_lost_may_still_be_found_again(audit: AuditTrail) -> None:
    first, second, third = trail(3, 4)
    await audit.put("ingestion", *first)
    await audit.put("ingestion", *third)
    await accept(audit, 4)
    await audit.put("ingestion", *second)
    assert (await faults(audit), (await audit.verify()).event_count) == ([], 12)


async def test_an_anchor_that_was_changed_accepts_nothing(audit: AuditTrail, opened: Database) -> None:
    await lose_a_tail(audit)
    anchor = await accept(audit, 4)
    await audit.report("ingestion", ReportedHead(OWNER, 10, bytes(32), LONG_AGO))
    store = TrailStore(opened)
    store.save_anchor(anchor.id, store.anchors()[anchor.id].replace("lost 5 9", "lost 5 10"))
    report = await audit.verify()
    assert sorted(fault.segment for fault in report.faults) == ["anchor", "ingestion-0123456789ab"]
    assert report.anchors == ()


@pytest.mark.parametrize("sequence", [0, 3, 5, 12])
async def test_only_what_is_missing_can_be_accepted(audit: AuditTrail, sequence: int) -> None:
    await lose_a_tail(audit)
    with pytest.raises(FailedPreconditionError) as caught:
        await accept(audit, sequence)
    assert caught.value.reason == "STATE_CONFLICT"
    assert await faults(audit) == [5]


async def test_a_live_or_complete_chain_has_nothing_to_accept(audit: AuditTrail) -> None:
    segment = trail(1, 4)[0]
    await audit.put("ingestion", *segment)
    with pytest.raises(FailedPreconditionError, match="no event is missing"):
        await accept(audit, 4)
    await audit.report("ingestion", ReportedHead.now(OWNER, 9, bytes(32)))
    with pytest.raises(FailedPreconditionError, match="alive"):
        await accept(audit, 4)


@pytest.mark.parametrize("changes", [{"reason": ""}, {"reason": "two\nlines"}, {"reason": "x" * 257}])
async def test_a_malformed_reason_is_refused(audit: AuditTrail, changes: dict[str, str]) -> None:
    await lose_a_tail(audit)
    with pytest.raises(InvalidArgumentError):
        await accept(audit, 4, **changes)
    with pytest.raises(InvalidArgumentError):
        await accept(audit, -1)


async def test_a_real_break_from_the_writers_disk_to_a_verified_trail(audit: AuditTrail, tmp_path: Path) -> None:
    """AUD-04: a writer's file breaks, its service does not start, an operator re-anchors and accepts what is lost."""
    folder = tmp_path / "audit"
    sink = Sink()

    async def ship(name: str, content: bytes, checkpoint: str) -> None:
        await audit.put("ingestion", name.removeprefix("auditSegments/"), content, checkpoint)

    async def report(head: AuditHead) -> bool:
        owner = (head.service, head.instance)
        return await audit.report("ingestion", ReportedHead.now(owner, head.sequence, head.chain_hash))

    def writer() -> AuditWriter:
        return AuditWriter(
            folder, service="ingestion", data_key=DATA_KEY, sign=sink.sign, public_keys=sink.public_keys,
            ship=ship, report=report, limits=AuditLimits(upkeep_seconds=3600),
        )  # fmt: skip

    first = writer()
    await first.start()
    for number in range(10):
        await first.append(event(number))
    await first._report_head()
    broken = first.head().instance
    first._upkeep.cancel()  # type: ignore[union-attr]
    first._instance.release()
    (path,) = (folder / broken).glob("*.blocks")
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)
    with pytest.raises(AuditBrokenError):
        await writer().start()

    accept_break(folder / broken, Authority().user("operator"), "disk 3")
    second = writer()
    await second.start()
    await second._tend()
    await second.seal()
    head = audit._heads["ingestion", broken]
    audit._heads["ingestion", broken] = ReportedHead(head.owner, head.sequence, head.chain_hash, LONG_AGO)
    (fault,) = (await audit.verify()).faults
    assert fault.segment == f"ingestion-{broken}"
    assert fault.sequence is not None
    anchor = await audit.accept_loss(("ingestion", broken), fault.sequence - 1, actor=OPERATOR, reason="disk 3")
    assert (anchor.first, anchor.last) == (fault.sequence, 10)
    outcome = await audit.verify()
    assert (outcome.verified, outcome.anchors) == (True, (anchor,))
    assert outcome.event_count == fault.sequence - 1 + 1
    ((_, stored),) = await audit.events(None, 10, actor="", action="audit.Reanchor", decision="")
    assert stored.sequence == 1
    assert dict(stored.event.detail)["last_good_sequence"] == fault.sequence - 1
    await second.close()
