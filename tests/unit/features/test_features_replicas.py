"""What replicas of the service share: who works on what, what an erasure forbids, and a key."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

from services.features.held_files import FileLock, HeldFiles
from services.features.shared_gate import SharedErasureGate
from services.features.shared_key import shared_data_key

KEY = bytes(range(32))
_HOLD = """
import sys, time
from pathlib import Path
from services.features.held_files import HeldFiles
with HeldFiles(Path(sys.argv[1])).hold("trainingSets/credit"):
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_file_is_abandoned_when_its_process_is_killed_and_not_before(tmp_path: Path) -> None:
    files = HeldFiles(tmp_path / "running")
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path / "running")], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert files.held() == {"trainingSets/credit"}
        assert files.abandoned() == []
        holder.send_signal(signal.SIGKILL)
    finally:
        holder.communicate()
    assert files.held() == set()
    assert files.abandoned() == ["trainingSets/credit"]
    assert files.abandoned() == []


def test_two_may_hold_a_name_and_leave_nothing_behind(tmp_path: Path) -> None:
    one, two = HeldFiles(tmp_path / "running"), HeldFiles(tmp_path / "running")
    with one.hold("materializations/m"), two.hold("materializations/m") as path:
        assert path.stat().st_mode & 0o777 == 0o600
        assert one.abandoned() == []
    assert list((tmp_path / "running").iterdir()) == []


def test_what_one_replica_erases_no_job_of_another_writes(tmp_path: Path) -> None:
    working, erasing = SharedErasureGate(tmp_path, KEY), SharedErasureGate(tmp_path, KEY)
    erasing.close_to("before")
    with working.job():
        with working.writing() as erased:
            assert erased == set()
        with erasing.job():
            erasing.close_to("alice")
        erasing.close_to("bob")
        assert b"alice" not in (tmp_path / "erased.sealed").read_bytes()
        with working.writing() as erased:
            assert erased == {"alice", "bob"}
    with working.writing() as erased:
        assert erased == set()
    assert not (tmp_path / "erased.sealed").exists()


async def test_an_erasure_waits_for_a_write_of_another_replica(tmp_path: Path) -> None:
    working, erasing = SharedErasureGate(tmp_path, KEY), SharedErasureGate(tmp_path, KEY)
    with working.job():
        with working.writing():
            closing = asyncio.create_task(asyncio.to_thread(erasing.close_to, "alice"))
            with FileLock(tmp_path / "write.lock").tried() as is_free:
                assert not is_free
            assert not closing.done()
        await closing
        with working.writing() as erased:
            assert erased == {"alice"}


async def test_erasures_of_two_replicas_take_turns(tmp_path: Path) -> None:
    gates = [SharedErasureGate(tmp_path, KEY) for _ in range(2)]
    inside: list[int] = []

    async def erase(gate: SharedErasureGate) -> None:
        async with gate.erasing():
            inside.append(1)
            await asyncio.sleep(0)
            assert len(inside) == 1
            inside.clear()

    async with asyncio.timeout(30):
        await asyncio.gather(*(erase(gate) for gate in gates for _ in range(5)))


class Keys:
    """Wraps by adding a letter, and counts the keys it made."""

    def __init__(self) -> None:
        self.made = 0

    async def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        assert key == "keys/features-online"
        self.made += 1
        plaintext = os.urandom(32)
        return plaintext, b"w" + plaintext

    async def unwrap(self, key: str, wrapped: bytes, grant: str = "") -> bytes:
        return wrapped[1:]


async def test_all_replicas_have_the_key_of_whoever_was_first(tmp_path: Path) -> None:
    secrets, path = Keys(), tmp_path / "online" / "key.wrapped"
    keys = await asyncio.gather(*(shared_data_key(secrets, "keys/features-online", path) for _ in range(5)))
    keys.append(await shared_data_key(secrets, "keys/features-online", path))
    assert len(set(keys)) == 1
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in path.parent.iterdir()] == ["key.wrapped"]
