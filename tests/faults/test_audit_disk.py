"""The disk fills up, fails or hangs: calls are refused in time, nothing breaks, and it goes on when the disk does."""

import asyncio
import dataclasses
import errno
from pathlib import Path

import pytest

from hedgerow.errors import UnavailableError
from tests.support.audit_sink import QUICK, Sink, until
from tests.support.audit_trail import event
from tests.support.failing_disk import FailingDisk

# For the disks that are refused; a sound one on a busy machine may take longer than this.
SOON = dataclasses.replace(QUICK, durable_seconds=0.2)


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(("failing", "partial"), [("write", 0), ("write", 17), ("fdatasync", 0)])
async def test_a_failing_disk_refuses_and_recovers(tmp_path: Path, fault: int, failing: str, partial: int) -> None:
    disk, sink = FailingDisk(), Sink()
    async with sink.running(tmp_path, disk=disk.disk()) as writer:
        await writer.append(event(1))
        disk.fault, disk.failing, disk.partial = fault, failing, partial
        writer.append_nowait(event(2))
        with pytest.raises(UnavailableError) as caught:
            await writer.append(event(3))
        assert caught.value.reason == "AUDIT_UNAVAILABLE"
        disk.fault = None
        await until(lambda: writer.status().sequence == 2)
        await writer.append(event(4))
    assert sink.events() == [event(1), event(2), event(4)]
    assert sink.report().verified


async def test_the_first_write_of_all_may_fail(tmp_path: Path) -> None:
    disk, sink = FailingDisk(), Sink()
    async with sink.running(tmp_path, disk=disk.disk()) as writer:
        disk.fault, disk.partial = errno.ENOSPC, 10
        with pytest.raises(UnavailableError):
            await writer.append(event(1))
        disk.fault = None
        await writer.append(event(2))
    assert sink.events() == [event(2)]
    assert sink.report().verified


async def test_a_failed_cut_is_made_up_for(tmp_path: Path) -> None:
    disk, sink = FailingDisk(), Sink()
    async with sink.running(tmp_path, disk=disk.disk()) as writer:
        await writer.append(event(1))
        disk.fault, disk.partial = errno.EIO, 5
        with pytest.raises(UnavailableError):
            await writer.append(event(2))
        disk.failing = "ftruncate"
        with pytest.raises(UnavailableError):
            await writer.append(event(3))
        disk.fault = None
        await writer.append(event(4))
    assert sink.events() == [event(1), event(4)]


async def test_a_disk_that_goes_on_failing_refuses_buffered_events_too(tmp_path: Path) -> None:
    disk, sink = FailingDisk(), Sink()
    async with sink.running(tmp_path, disk=disk.disk(), limits=SOON) as writer:
        disk.fault = errno.ENOSPC
        writer.append_nowait(event(1))
        await until(lambda: writer.status().refusing == ("the disk fails",))
        with pytest.raises(UnavailableError):
            writer.fold(event(2))
        disk.fault = None
        await until(lambda: writer.status().refusing == ())
        await writer.append(event(3))
    assert sink.events() == [event(1), event(3)]


async def test_refused_callers_alone_do_not_keep_the_door_shut(tmp_path: Path) -> None:
    disk, sink = FailingDisk(), Sink()
    async with sink.running(tmp_path, disk=disk.disk(), limits=SOON) as writer:
        disk.fault = errno.ENOSPC
        loop = asyncio.get_running_loop()
        ends = loop.time() + 0.3
        while loop.time() < ends:
            with pytest.raises(UnavailableError):
                await writer.append(event(1))
        disk.fault = None
        await writer.append(event(2))
    assert sink.events() == [event(2)]


async def test_a_hanging_disk_refuses_in_time_and_goes_on(tmp_path: Path) -> None:
    disk, sink = FailingDisk(), Sink()
    async with sink.running(tmp_path, disk=disk.disk(), limits=SOON) as writer:
        disk.hang()
        async with asyncio.timeout(10):
            with pytest.raises(UnavailableError) as caught:
                await writer.append(event(1))
        assert caught.value.metadata == {"cause": "the disk hangs"}
        for refused in (writer.append_nowait, writer.fold):
            with pytest.raises(UnavailableError):
                refused(event(2))
        with pytest.raises(UnavailableError):
            await writer.flush()
        disk.go_on()
        await until(lambda: writer.status().refusing == ())
        await writer.append(event(3))
    # Event 1 was on its way when its caller was refused: it may be in the trail, and is here.
    assert sink.events() == [event(1), event(3)]
    assert sink.report().verified


async def test_closing_does_not_wait_for_a_dead_disk(tmp_path: Path) -> None:
    disk, sink = FailingDisk(), Sink()
    writer = sink.writer(tmp_path, disk=disk.disk(), limits=SOON)
    await writer.start()
    disk.hang()
    with pytest.raises(UnavailableError):
        await writer.append(event(1))
    async with asyncio.timeout(20):
        await writer.close()
    disk.go_on()
