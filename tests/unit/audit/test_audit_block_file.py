"""The encrypted file of a segment: what a crash leaves is cut, what a hand changed is reported."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.audit import AuditBrokenError
from libs.audit.block_file import BlockFile, BlockFileError, Disk, read_block_file
from libs.audit.instance import Instance, InstanceFolder
from libs.audit.segment import SegmentReader
from tests.support.audit_trail import event

KEY = bytes(range(32))
BLOCKS = [b"first block", b"second", b"the third block"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, list[int]]:
    """A file of three blocks, and its length after each."""
    path = tmp_path_factory.mktemp("blocks") / "x.blocks"
    file = BlockFile(path, "x", KEY, Disk())
    ends = []
    for block in BLOCKS:
        file.append(block)
        ends.append(path.stat().st_size)
    file.close()
    return path.read_bytes(), ends


def test_blocks_are_read_back_and_hidden_on_disk(whole: tuple[bytes, list[int]], tmp_path: Path) -> None:
    data, ends = whole
    path = tmp_path / "x.blocks"
    path.write_bytes(data)
    found = read_block_file(path, "x", KEY)
    assert (found.content, found.whole_bytes, found.torn_bytes, found.block_count) == (b"".join(BLOCKS), ends[2], 0, 3)
    assert b"block" not in data


def test_a_file_of_another_name_or_key_does_not_open(whole: tuple[bytes, list[int]], tmp_path: Path) -> None:
    path = tmp_path / "x.blocks"
    path.write_bytes(whole[0])
    assert read_block_file(path, "y", KEY).content == b""
    assert read_block_file(path, "x", bytes(32)).content == b""


def test_a_cut_anywhere_keeps_the_whole_blocks(whole: tuple[bytes, list[int]], tmp_path: Path) -> None:
    data, ends = whole
    path = tmp_path / "x.blocks"
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        found = read_block_file(path, "x", KEY)
        kept = sum(end <= length for end in ends)
        assert found.content == b"".join(BLOCKS[:kept])
        assert found.torn_bytes == length - (ends[kept - 1] if kept else 0)


@given(st.data())
@settings(max_examples=200)
def test_a_changed_block_in_the_middle_is_reported(
    whole: tuple[bytes, list[int]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content, ends = whole
    position = data.draw(st.integers(ends[0], ends[1] - 1))
    changed = bytearray(content)
    changed[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.getbasetemp() / "changed.blocks"
    path.write_bytes(changed)
    with pytest.raises(BlockFileError, match="block 1 of the file does not authenticate"):
        read_block_file(path, "x", KEY)


def test_blocks_cannot_change_places(whole: tuple[bytes, list[int]], tmp_path: Path) -> None:
    data, (one, two, three) = whole
    path = tmp_path / "x.blocks"
    path.write_bytes(data[:one] + data[two:three] + data[one:two])
    assert read_block_file(path, "x", KEY).content == BLOCKS[0]


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.blocks"
    path.write_bytes(b"something else entirely that is long enough")
    with pytest.raises(BlockFileError):
        read_block_file(path, "x", KEY)
    path.write_bytes(bytes(100))
    assert read_block_file(path, "x", KEY).torn_bytes == 100


def open_instance(directory: Path, trust_domain: str = "hedgerow.local") -> Instance:
    return Instance.acquire(directory, "ingestion", KEY, segment_bytes=10_000, disk=Disk(), trust_domain=trust_domain)


def blocks_of(directory: Path) -> list[Path]:
    return sorted(directory.glob("*/*.blocks"))


def test_a_restart_goes_on_with_the_chain(tmp_path: Path) -> None:
    first = open_instance(tmp_path)
    assert first.commit([event(1), event(2)]) == (2, None)
    folder = first.folder
    first.release()
    second = open_instance(tmp_path)
    assert second.folder == folder
    assert second.commit([event(3)]) == (1, None)
    second.release()
    (path,) = blocks_of(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    reader = SegmentReader(read_block_file(path, folder.name(1), KEY).content)
    assert [item for _, item, _ in reader] == [event(1), event(2), event(3)]


def test_a_torn_tail_is_cut_and_the_cut_is_an_event(tmp_path: Path) -> None:
    instance = open_instance(tmp_path)
    instance.commit([event(1), event(2)])
    instance.commit([event(3)])
    folder = instance.folder
    instance.release()
    (path,) = blocks_of(tmp_path)
    path.write_bytes(path.read_bytes()[:-7])

    recovered = open_instance(tmp_path, "example.org")
    assert recovered.head[0] == 3
    recovered.release()
    *kept, last = [item for _, item, _ in SegmentReader(read_block_file(path, folder.name(1), KEY).content)]
    assert kept == [event(1), event(2)]
    assert (last.action, last.actor, last.detail["events_kept"]) == (
        "audit.Recover",
        "spiffe://example.org/service/ingestion",
        2,
    )
    assert last.detail["bytes_cut"] > 0


def test_a_first_block_that_never_was_whole_is_removed(tmp_path: Path) -> None:
    instance = open_instance(tmp_path)
    instance.commit([event(1)])
    instance.release()
    (path,) = blocks_of(tmp_path)
    path.write_bytes(path.read_bytes()[:30])
    recovered = open_instance(tmp_path)
    assert recovered.head[0] == 1
    assert recovered.folder.read(recovered.folder.segments()[0])[1] is not None
    recovered.release()


def test_a_real_break_stops_the_start_and_names_the_segment(tmp_path: Path) -> None:
    instance = open_instance(tmp_path)
    for number in range(5):
        instance.commit([event(number)])
    name = instance.folder.name(1)
    instance.release()
    (path,) = blocks_of(tmp_path)
    changed = bytearray(path.read_bytes())
    changed[len(changed) // 2] ^= 1
    path.write_bytes(changed)
    with pytest.raises(AuditBrokenError) as caught:
        open_instance(tmp_path)
    assert caught.value.code_name == "FAILED_PRECONDITION"
    assert (caught.value.reason, caught.value.metadata) == ("AUDIT_BROKEN", {"segment": name, "record": "header"})
    assert path.read_bytes() == bytes(changed)


def test_two_processes_never_share_a_chain(tmp_path: Path) -> None:
    first, second = open_instance(tmp_path), open_instance(tmp_path)
    assert first.folder != second.folder
    first.release()
    third = open_instance(tmp_path)
    assert third.folder == first.folder
    second.release()
    third.release()


def test_segments_roll_by_size_and_continue_the_chain(tmp_path: Path) -> None:
    instance = open_instance(tmp_path)
    assert instance.commit([event(number) for number in range(200)]) == (200, None)
    assert instance.commit([event(number) for number in range(200, 300)]) == (100, None)
    folder: InstanceFolder = instance.folder
    ends = [folder.read(files)[1] for files in folder.segments()]
    assert len(ends) == 2
    assert ends[-1] is not None
    assert ends[-1].next_sequence == 301
    assert ends[-1].tree.size == 300
    instance.release()


def test_a_big_commit_is_split_into_blocks(tmp_path: Path) -> None:
    instance = Instance.acquire(tmp_path, "ingestion", KEY, segment_bytes=1_000_000, disk=Disk())
    assert instance.commit([event(number) for number in range(5_000)]) == (5_000, None)
    contents = [instance.folder.read(files)[0] for files in instance.folder.segments()]
    assert sum(found.block_count for found in contents) > 3
    assert all(len(found.content) < 1_400_000 for found in contents)
    instance.release()
