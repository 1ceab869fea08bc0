"""The writer: group commit, folding, back-pressure, sealing, shipping."""

import asyncio
from pathlib import Path

import pytest

from hedgerow.errors import UnavailableError
from libs.audit import AuditHead, AuditLimits, AuditWriter
from tests.support.audit_sink import QUICK, Sink, until
from tests.support.audit_trail import event
from tests.support.failing_disk import FailingDisk


async def test_twenty_writers_make_one_chain(tmp_path: Path) -> None:
    """AUD-01: 20 writers of 500 records each, times of nine digits, an empty trail at the start."""
    sink = Sink()
    async with sink.running(tmp_path) as writer:

        async def write(number: int) -> None:
            for step in range(500):
                await writer.append(event(number * 500 + step))

        await asyncio.gather(*(write(number) for number in range(20)))
        assert writer.status().sequence == 10_000
    report = sink.report()
    assert (report.verified, report.event_count, report.faults) == (True, 10_000, ())
    assert sorted(sink.events()) == [event(number) for number in range(10_000)]


async def test_order_is_the_sequence_and_not_the_time(tmp_path: Path) -> None:
    """AUD-02: equal timestamps, and a clock that steps back an hour."""
    sink = Sink()
    now = 1_795_000_000_000_000_000
    same = [event(number, event_time_ns=now) for number in range(100)]
    earlier = [event(number, event_time_ns=now - 3_600_000_000_000) for number in range(100, 200)]
    async with sink.running(tmp_path) as writer:
        for made in same + earlier:
            writer.append_nowait(made)
    assert sink.report().verified
    assert sink.events() == same + earlier


async def test_callers_of_one_moment_share_a_sync(tmp_path: Path) -> None:
    disk = FailingDisk()
    async with Sink().running(tmp_path, disk=disk.disk()) as writer:
        await asyncio.gather(*(writer.append(event(number)) for number in range(64)))
        assert disk.syncs == 1


async def test_buffered_events_reach_the_disk_without_being_waited_for(tmp_path: Path) -> None:
    async with Sink().running(tmp_path) as writer:
        writer.append_nowait(event(1))
        await until(lambda: writer.status().sequence == 1)


async def test_like_events_are_folded_and_others_are_not(tmp_path: Path) -> None:
    sink = Sink()
    async with sink.running(tmp_path) as writer:
        for number in range(10):
            writer.fold(event(number))
        writer.fold(event(99, actor="spiffe://hedgerow.local/user/mia"))
        await until(lambda: writer.status().sequence == 2)
    folded, single = sink.events()
    assert (folded.count, folded.request_id, folded.last_request_id) == (10, f"{0:032x}", f"{9:032x}")
    assert single == event(99, actor="spiffe://hedgerow.local/user/mia")


async def test_kinds_of_folded_events_are_bounded(tmp_path: Path) -> None:
    sink = Sink()
    limits = AuditLimits(fold_keys=4, fold_seconds=3600, upkeep_seconds=3600)
    async with sink.running(tmp_path, limits=limits) as writer:
        for number in range(9):
            writer.fold(event(number, purpose=str(number)))
        assert len(writer._folds) == 1
        await writer.flush()
        assert writer.status().sequence == 9


async def test_a_full_buffer_fails_closed_and_empties_again(tmp_path: Path) -> None:
    disk = FailingDisk()
    limits = AuditLimits(buffer_events=10, durable_seconds=3600, upkeep_seconds=3600, flush_seconds=0.001)
    sink = Sink()
    async with sink.running(tmp_path, disk=disk.disk(), limits=limits) as writer:
        disk.hang()
        writer.append_nowait(event(0))
        await until(lambda: writer.status().waiting == 1 and not writer._pending)
        for number in range(1, 11):
            writer.append_nowait(event(number))
        for refused in (writer.append_nowait, writer.fold):
            with pytest.raises(UnavailableError) as caught:
                refused(event(11))
            assert caught.value.reason == "AUDIT_UNAVAILABLE"
            assert caught.value.metadata == {"cause": "the buffer is full"}
        with pytest.raises(UnavailableError):
            await writer.append(event(11))
        disk.go_on()
        await until(lambda: writer.status().sequence == 11)
        await writer.append(event(12))
    assert sink.events() == [event(number) for number in [*range(11), 12]]


async def test_a_cancelled_append_is_still_written(tmp_path: Path) -> None:
    disk = FailingDisk()
    sink = Sink()
    async with sink.running(tmp_path, disk=disk.disk()) as writer:
        disk.hang()
        waiting = asyncio.create_task(writer.append(event(1)))
        await until(lambda: writer.status().waiting == 1)
        waiting.cancel()
        disk.go_on()
        await writer.append(event(2))
    assert sink.events() == [event(1), event(2)]


async def test_sealing_ships_everything_taken_over(tmp_path: Path) -> None:
    sink = Sink()
    async with sink.running(tmp_path) as writer:
        await writer.seal()
        assert sink.segments == {}
        writer.append_nowait(event(1))
        writer.fold(event(2))
        await writer.seal()
        assert sink.report().event_count == 2
        await writer.append(event(3))
        await writer.seal()
        assert [name.rsplit("-")[-1] for name in sorted(sink.segments)] == ["0000000000000001", "0000000000000003"]
        assert writer.status().unshipped == 0
    assert sink.report().verified


async def test_segments_are_sealed_by_size(tmp_path: Path) -> None:
    sink = Sink()
    limits = AuditLimits(segment_bytes=20_000, batch_events=50, upkeep_seconds=3600)
    async with sink.running(tmp_path, limits=limits) as writer:
        await asyncio.gather(*(writer.append(event(number)) for number in range(500)))
    report = sink.report()
    assert (report.verified, report.event_count) == (True, 500)
    assert report.segment_count > 3


async def test_segments_are_sealed_by_age(tmp_path: Path) -> None:
    sink = Sink()
    limits = AuditLimits(seal_seconds=0, upkeep_seconds=0.01)
    async with sink.running(tmp_path, limits=limits) as writer:
        await writer.append(event(1))
        await until(lambda: len(sink.segments) == 1)


async def test_what_cannot_be_signed_or_shipped_waits(tmp_path: Path) -> None:
    sink = Sink()
    sink.sign_fault = UnavailableError("the secrets service is away")
    async with sink.running(tmp_path) as writer:
        await writer.append(event(1))
        with pytest.raises(UnavailableError):
            await writer.seal()
        sink.sign_fault = None
        sink.ship_fault = UnavailableError("governance is away")
        with pytest.raises(UnavailableError):
            await writer.seal()
        assert writer.status().unshipped == 1
        await writer.append(event(2))
    assert sink.segments == {}
    sink.ship_fault = None
    async with sink.running(tmp_path) as writer:
        await writer.seal()
    assert (sink.report().verified, sink.report().event_count) == (True, 2)


async def test_too_many_unshipped_segments_fail_closed(tmp_path: Path) -> None:
    sink = Sink()
    sink.ship_fault = UnavailableError("governance is away")
    limits = AuditLimits(max_unshipped=2, upkeep_seconds=3600)
    async with sink.running(tmp_path, limits=limits) as writer:
        for number in range(3):
            await writer.append(event(number))
            with pytest.raises(UnavailableError):
                await writer.seal()
        with pytest.raises(UnavailableError) as caught:
            await writer.append(event(3))
        assert caught.value.metadata == {"cause": "too many segments wait to be shipped"}
        sink.ship_fault = None
        await writer.seal()
        await writer.append(event(4))
    assert len(sink.events()) == 4


async def test_shipped_segments_are_kept_up_to_a_bound(tmp_path: Path) -> None:
    sink = Sink()
    async with sink.running(tmp_path, limits=AuditLimits(keep_shipped=2, upkeep_seconds=3600)) as writer:
        for number in range(5):
            await writer.append(event(number))
            await writer.seal()
    assert len(sink.segments) == 5
    assert len(list(tmp_path.glob("*/*.blocks"))) == len(list(tmp_path.glob("*/*.shipped"))) == 2
    async with sink.running(tmp_path) as writer:
        assert writer.status().sequence == 5
        await writer.append(event(5))
    assert sink.report().verified


async def test_the_head_is_reported_and_a_wish_to_seal_is_met(tmp_path: Path) -> None:
    sink = Sink()
    heads: list[AuditHead] = []
    wishes = [True]

    async def report(head: AuditHead) -> bool:
        heads.append(head)
        return wishes.pop() if wishes else False

    async with sink.running(tmp_path, report=report, limits=AuditLimits(upkeep_seconds=0.01)) as writer:
        writer.fold(event(1))
        await until(lambda: len(heads) > 1)
        assert [head.sequence for head in heads[:2]] == [1, 1]
        assert heads[1] == writer.head()
        assert len(sink.segments) == 1


async def test_a_process_that_is_gone_leaves_nothing_behind(tmp_path: Path) -> None:
    sink = Sink()
    first, second = sink.writer(tmp_path), sink.writer(tmp_path)
    await first.start()
    await second.start()
    await second.append(event(1))
    await first.append(event(2))
    # Both stop before either lets go, or the one that still runs would begin to settle what the other left.
    for gone in (first, second):
        assert gone._upkeep is not None
        gone._upkeep.cancel()
        await asyncio.wait([gone._upkeep])
    for gone in (first, second):
        await gone._thread.run(gone._instance.release)
    async with sink.running(tmp_path, limits=AuditLimits(upkeep_seconds=0.01)) as writer:
        await until(lambda: len(sink.segments) >= 1)
        await writer.seal()
    assert sorted(sink.events()) == [event(1), event(2)]
    assert sink.report().verified


async def test_a_closed_writer_refuses(tmp_path: Path) -> None:
    writer = Sink().writer(tmp_path)
    with pytest.raises(UnavailableError):
        writer.append_nowait(event(1))
    await writer.start()
    await writer.close()
    await writer.close()
    with pytest.raises(UnavailableError) as caught:
        await writer.append(event(1))
    assert caught.value.metadata == {"cause": "closed"}


def test_a_key_of_another_length_is_refused(tmp_path: Path) -> None:
    sink = Sink()
    with pytest.raises(ValueError, match="it must have 32"):
        AuditWriter(
            tmp_path, service="x", data_key=b"short", sign=sink.sign, public_keys=sink.public_keys, ship=sink.ship
        )
    assert QUICK.buffer_events == 16_384
