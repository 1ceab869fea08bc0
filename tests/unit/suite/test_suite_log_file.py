"""Logs that cannot fill the disk."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.log_file import LogFile, turn_over


def everything(path: Path, kept: int) -> list[bytes]:
    files = [path.with_name(f"{path.name}.{n}") for n in range(kept, 0, -1)] + [path]
    return [file.read_bytes() for file in files if file.exists()]


def test_it_is_private_and_appends_to_what_is_there(tmp_path: Path) -> None:
    for line in (b"one\n", b"two\n"):
        log = LogFile(tmp_path / "logs" / "a.log")
        log.write(line)
        log.close()
    assert (tmp_path / "logs" / "a.log").read_bytes() == b"one\ntwo\n"
    assert stat.S_IMODE((tmp_path / "logs" / "a.log").stat().st_mode) == 0o600


def test_it_turns_over_between_lines(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", max_bytes=10, kept=2)
    log.write(b"aaaa\nbbbb\ncccc\ndddd\n")
    assert everything(tmp_path / "a.log", 2) == [b"aaaa\nbbbb\n", b"cccc\ndddd\n"]
    assert log.tail(1) == ["dddd"]
    log.close()


def test_a_line_longer_than_a_file_is_cut(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "a.log", max_bytes=4, kept=3)
    log.write(b"abcdefghij\n")
    log.close()
    assert b"".join(everything(tmp_path / "a.log", 3)) == b"abcdefghij\n"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.lists(st.binary(max_size=40), max_size=20))
def test_every_file_keeps_to_its_size_and_the_newest_bytes_stay(tmp_path: Path, writes: list[bytes]) -> None:
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    log = LogFile(folder / "a.log", max_bytes=32, kept=2)
    for content in writes:
        log.write(content)
    log.close()
    files = everything(folder / "a.log", 2)
    assert len(files) <= 3
    assert all(len(content) <= 32 for content in files)
    assert b"".join(writes).endswith(b"".join(files))


def test_turning_over_drops_the_oldest(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    for content in ("1", "2", "3", "4"):
        path.write_text(content)
        turn_over(path, kept=2)
    assert not path.exists()
    assert [(tmp_path / f"audit.log.{n}").read_text() for n in (1, 2)] == ["4", "3"]
    assert not (tmp_path / "audit.log.3").exists()


def test_a_turn_that_finds_the_disk_full_loses_no_former_file_and_is_made_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = LogFile(tmp_path / "a.log", max_bytes=4, kept=3)
    log.write(b"one\ntwo\n")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("suite.log_file.os.open", full)
        for _ in range(5):
            with pytest.raises(OSError, match="No space left"):
                log.write(b"lost\n")
    log.write(b"six\n")
    assert everything(tmp_path / "a.log", 3) == [b"one\n", b"two\n", b"six\n"]
    log.close()
