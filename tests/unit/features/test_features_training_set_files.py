"""Training sets at rest: sealed as a whole, and whatever is changed is found."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hedgerow.errors import DataLossError, NotFoundError
from services.features.training_set_files import MAGIC, TrainingSetFiles

KEY = bytes(range(32))
WRAPPED = b"wrapped-key"
FRAMES = [b"frame zero of alice", b"frame one of bob", b"frame two of carol"]


@pytest.fixture
def files(tmp_path: Path) -> TrainingSetFiles:
    made = TrainingSetFiles(tmp_path / "sets")
    made.write("credit", KEY, WRAPPED, FRAMES)
    return made


def stored(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "sets").iterdir()
    return path


def test_what_was_written_is_read_and_nothing_is_in_clear(files: TrainingSetFiles, tmp_path: Path) -> None:
    assert list(files.read("credit", KEY)) == FRAMES
    assert files.wrapped_key("credit") == WRAPPED
    assert files.ids() == ["credit"]
    path = stored(tmp_path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    content = path.read_bytes()
    assert all(name not in content for name in (b"alice", b"bob", b"carol", KEY))


def frame_ends(content: bytes) -> list[int]:
    position = len(MAGIC) + 2 + len(WRAPPED)
    ends = [position]
    while position < len(content):
        position += 16 + int.from_bytes(content[position : position + 4], "little")
        ends.append(position)
    return ends


def swap_frames(content: bytes) -> bytes:
    start, first, second, third = frame_ends(content)
    return content[:start] + content[first:second] + content[start:first] + content[second:third]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:],
        lambda content: content[:-1],
        lambda content: content[: frame_ends(content)[2]],
        lambda content: content[: frame_ends(content)[0]],
        lambda content: content[: frame_ends(content)[2]] + content[frame_ends(content)[1] :],
        swap_frames,
        lambda content: content + content[frame_ends(content)[2] :],
        lambda content: content + b"\xff\xff\xff\xff",
        lambda content: content + b"\x01",
        lambda _: b"",
        lambda _: MAGIC,
    ],
)
def test_a_changed_file_is_data_loss(files: TrainingSetFiles, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    path = stored(tmp_path)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataLossError) as caught:
        list(files.read("credit", KEY))
    assert caught.value.reason == "DATA_CORRUPT"


def test_every_byte_is_covered(files: TrainingSetFiles, tmp_path: Path) -> None:
    path = stored(tmp_path)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x40]) + content[position + 1 :])
        with pytest.raises(DataLossError):
            list(files.read("credit", KEY))


def test_a_file_of_another_set_or_key_does_not_open(files: TrainingSetFiles, tmp_path: Path) -> None:
    path = stored(tmp_path)
    path.rename(path.with_name("other.sealed"))
    for key, name in ((KEY, "other"), (bytes(32), "other")):
        with pytest.raises(DataLossError):
            list(files.read(name, key))
    with pytest.raises(NotFoundError):
        list(files.read("credit", KEY))
    with pytest.raises(NotFoundError):
        files.wrapped_key("credit")


def test_a_failed_rewrite_leaves_the_file_as_it_was(files: TrainingSetFiles, tmp_path: Path) -> None:
    def broken():  # type: ignore[no-untyped-def]
        yield b"a frame"
        yield b"and another"
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write("credit", bytes(32), b"other", broken())
    assert list(files.read("credit", KEY)) == FRAMES
    assert [path.name for path in (tmp_path / "sets").iterdir()] == ["credit.sealed"]


def test_what_a_crash_left_is_removed(files: TrainingSetFiles, tmp_path: Path) -> None:
    partial = tmp_path / "sets-partial"
    (partial / "half.1").write_bytes(b"x")

    def frames() -> Iterator[bytes]:
        yield b"one"
        # Another replica starts while this one writes.
        TrainingSetFiles(tmp_path / "sets")
        assert [path.name.partition(".")[0] for path in partial.iterdir()] == ["whole"]
        yield b"two"

    files.write("whole", KEY, b"wrapped", frames())
    assert list(files.read("whole", KEY)) == [b"one", b"two"]
    assert files.ids() == ["credit", "whole"]
    assert not list(partial.iterdir())
