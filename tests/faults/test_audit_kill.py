"""AUD-04: processes killed in the middle of appends, and two at once during a rolling update: no break, no loss."""

import asyncio
import random
import subprocess
import sys
from pathlib import Path

from libs.audit.block_file import BlockFileContent, Disk
from libs.audit.instance import Instance, InstanceFolder
from libs.audit.segment import ChainState
from tests.support.audit_sink import DATA_KEY, Sink
from tests.support.audit_trail import event

KILLS = 30
ROOT = Path(__file__).parents[2]


def start(directory: Path, first: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.audit_process", str(directory), str(first)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def kill_after(process: subprocess.Popen[bytes], lines: int) -> list[int]:
    """Kills the process once it has acknowledged `lines` events; returns all it acknowledged."""
    assert process.stdout is not None
    head = [process.stdout.readline() for _ in range(lines)]
    process.kill()
    rest = process.stdout.read().splitlines(keepends=True)
    process.stdout.close()
    process.wait()
    # A torn last line has no line feed; log lines are no numbers.
    return [int(line) for line in [*head, *rest] if line.endswith(b"\n") and line.strip().isdigit()]


async def finish(directory: Path) -> Sink:
    """What the next process makes of what was left."""
    sink = Sink()
    writer = sink.writer(directory)
    await writer.start()
    await writer.seal()
    await writer._tend()
    await writer.close()
    return sink


async def test_kills_in_the_middle_of_appends_break_nothing(tmp_path: Path) -> None:
    """Each start goes on with the chain of the one before."""
    chance = random.Random(7)
    acknowledged: list[int] = []
    for round_number in range(KILLS):
        first = round_number * 1_000_000
        acknowledged += await asyncio.to_thread(kill_after, start(tmp_path, first), chance.randint(1, 300))
    sink = await finish(tmp_path)
    report = sink.report()
    assert (report.verified, report.faults) == (True, ())
    assert len(list(tmp_path.iterdir())) == 1
    written = {int(item.request_id, 16) for item in sink.events() if item.action != "audit.Recover"}
    assert set(acknowledged) <= written


async def test_two_processes_at_once_have_chains_of_their_own(tmp_path: Path) -> None:
    old = start(tmp_path, 0)
    assert old.stdout is not None
    first_line = await asyncio.to_thread(old.stdout.readline)
    new = start(tmp_path, 1_000_000)
    acknowledged = await asyncio.to_thread(kill_after, new, 50)
    acknowledged += [int(first_line), *await asyncio.to_thread(kill_after, old, 50)]
    sink = await finish(tmp_path)
    assert sink.report().verified
    assert len({name.split("-")[1] for name in sink.segments}) == 2
    assert set(acknowledged) <= {int(item.request_id, 16) for item in sink.events() if item.action != "audit.Recover"}


def test_a_kill_at_every_byte_of_a_write_breaks_nothing(tmp_path: Path) -> None:
    """200 and more crashes: the file cut at each length that a kill can leave."""
    instance = acquire(tmp_path)
    instance.commit([event(1)])
    size = instance.folder.segments()[0].blocks.stat().st_size
    instance.commit([event(2), event(3)])
    folder = instance.folder
    instance.release()
    path = folder.segments()[0].blocks
    whole = path.read_bytes()
    for length in range(size, len(whole)):
        path.write_bytes(whole[:length])
        recovered = acquire(tmp_path)
        found, state = read(folder)
        assert state is not None
        assert not found.torn_bytes
        # The event that was acknowledged, and the record of the cut where there was one.
        assert state.next_sequence == (2 if length == size else 3)
        recovered.release()


def acquire(directory: Path) -> Instance:
    return Instance.acquire(directory, "ingestion", DATA_KEY, segment_bytes=100_000, disk=Disk())


def read(folder: InstanceFolder) -> tuple[BlockFileContent, ChainState | None]:
    return folder.read(folder.segments()[0])
