"""Whatever is done to a sealed trail is found, and named where it was done."""

import json
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.audit import SealedSegment, verify_segments
from libs.audit.__main__ import main
from libs.audit.hash_chain import frame, leaf_hash, link, read_frame
from libs.audit.segment import MAGIC, SegmentReader, empty_state, start_segment
from libs.audit.verify import read_directory, write_segment
from tests.support.audit_trail import KEY, PUBLIC_KEY, event, seal, sign_segment, trail

EVENTS = 8
KEYS = {"ingestion": [PUBLIC_KEY]}
SEGMENT = trail(1, EVENTS)[0]
CONTENT = SEGMENT.content


def frames() -> list[tuple[int, int]]:
    """(start, end) of every frame; the header first."""
    spans, offset = [], len(MAGIC)
    while offset < len(CONTENT):
        end = read_frame(CONTENT, offset).end
        spans.append((offset, end))
        offset = end
    return spans


FRAMES = frames()


def faults_of(content: bytes, checkpoint: str = SEGMENT.checkpoint) -> list[int | None]:
    report = verify_segments([SealedSegment(SEGMENT.name, content, checkpoint)], KEYS)
    assert report.verified == (not report.faults)
    return [fault.sequence for fault in report.faults]


def test_an_untouched_trail_verifies() -> None:
    report = verify_segments(trail(3, EVENTS), KEYS)
    assert (report.verified, report.segment_count, report.event_count, report.faults) == (True, 3, 3 * EVENTS, ())


@given(st.integers(0, len(CONTENT) - 1), st.integers(1, 255))
@settings(max_examples=400)
def test_a_changed_byte_is_found_at_its_record(position: int, flip: int) -> None:
    changed = bytearray(CONTENT)
    changed[position] ^= flip
    place = next((number for number, (_, end) in enumerate(FRAMES) if position < end), None)
    assert faults_of(bytes(changed)) == [place or None]


@given(st.integers(1, EVENTS))
def test_a_deleted_record_is_found(number: int) -> None:
    start, end = FRAMES[number]
    # Without the last record the rest is a whole chain: then the checkpoint tells.
    assert faults_of(CONTENT[:start] + CONTENT[end:]) == [number]


@given(st.integers(1, EVENTS), st.integers(1, EVENTS))
def test_swapped_records_are_found_at_the_first(one: int, other: int) -> None:
    first, second = sorted((one, other))
    (a, b), (c, d) = FRAMES[first], FRAMES[second]
    swapped = CONTENT[:a] + CONTENT[c:d] + CONTENT[b:c] + CONTENT[a:b] + CONTENT[d:] if first < second else CONTENT
    assert faults_of(swapped) == ([first] if first < second else [])


@given(st.integers(0, len(CONTENT) - 1))
def test_a_truncated_segment_is_found(length: int) -> None:
    whole = sum(end <= length for _, end in FRAMES)
    assert faults_of(CONTENT[:length]) == [whole or None]


@given(st.binary(min_size=1, max_size=200))
def test_appended_bytes_are_found(extra: bytes) -> None:
    assert faults_of(CONTENT + extra) == [EVENTS + 1]


def test_a_repeated_record_is_found() -> None:
    start, end = FRAMES[3]
    assert faults_of(CONTENT[:end] + CONTENT[start:end] + CONTENT[end:]) == [4]


@given(st.binary(max_size=300))
def test_any_bytes_are_judged_without_failing(content: bytes) -> None:
    assert faults_of(content) == [None]


def test_a_rechained_segment_contradicts_its_checkpoint() -> None:
    forged, _ = seal([event(number, decision="deny") for number in range(EVENTS)])
    report = verify_segments([SealedSegment(SEGMENT.name, forged.content, SEGMENT.checkpoint)], KEYS)
    assert [fault.reason for fault in report.faults] == [
        "the events are not those of the checkpoint: the segment was rewritten"
    ]


def test_a_record_with_another_sequence_is_found() -> None:
    header = empty_state().header("ingestion", "0123456789ab")
    content, state = start_segment(header)
    skipping = state.copy()
    skipping.next_sequence = 5
    record = read_frame(skipping.add_event(event(1)), 0).record
    chain_hash = link(state.chain_hash, leaf_hash(record))
    assert faults_of(content + frame(record, chain_hash)) == [1]


@pytest.mark.parametrize("checkpoint", ["", "x", "\n\n", SEGMENT.checkpoint.replace("\u2014 ", "\u2014 other/")])
def test_a_missing_or_foreign_checkpoint_is_found(checkpoint: str) -> None:
    assert faults_of(CONTENT, checkpoint) == [None]


@given(st.integers(0, len(SEGMENT.checkpoint) - 1), st.sampled_from("aB3+/=\n \u2014"))
def test_a_changed_checkpoint_is_found(position: int, character: str) -> None:
    note = SEGMENT.checkpoint
    changed = note[:position] + character + note[position + 1 :]
    # A note's last line feed may be doubled without changing what is signed.
    same = changed == note
    assert faults_of(CONTENT, changed) == ([] if same else [None])


def test_a_key_of_another_service_does_not_count() -> None:
    report = verify_segments([SEGMENT], {"features": [PUBLIC_KEY]})
    assert [str(fault) for fault in report.faults] == [
        f"{SEGMENT.name}: no known key of hedgerow.local/signingKeys/ingestion-audit signed the checkpoint"
    ]


def test_a_segment_under_another_name_is_found() -> None:
    report = verify_segments([SEGMENT._replace(name="ingestion-0123456789ab-0000000000000002")], KEYS)
    assert report.faults[0].reason == f"the content is that of segment {SEGMENT.name}"


def test_a_missing_segment_is_found() -> None:
    first, _, third = trail(3, EVENTS)
    report = verify_segments([third, first], KEYS)
    assert [fault.sequence for fault in report.faults] == [EVENTS + 1]
    assert "events 9 to 16 before it are missing" in report.faults[0].reason


def test_a_missing_first_segment_is_found() -> None:
    report = verify_segments(trail(3, EVENTS)[1:], KEYS)
    assert [fault.sequence for fault in report.faults] == [1]


def test_a_forked_chain_is_found() -> None:
    first, state = seal([event(number) for number in range(EVENTS)])
    other_first, other_state = seal([event(number, code="INTERNAL") for number in range(EVENTS)])
    second, _ = seal([event(8)], other_state)
    report = verify_segments([first, second], KEYS)
    assert [fault.reason for fault in report.faults] == [
        "the segment does not continue the one before: the chain was forked"
    ]
    assert other_first.name == first.name
    assert state.next_sequence == other_state.next_sequence


def test_an_overlapping_segment_is_found() -> None:
    first, _ = seal([event(number) for number in range(EVENTS)])
    _, shorter = seal([event(number) for number in range(3)])
    overlapping, _ = seal([event(3)], shorter)
    report = verify_segments([first, overlapping], KEYS)
    assert [fault.sequence for fault in report.faults] == [4]


def test_a_broken_segment_does_not_hide_the_next() -> None:
    first, second, third = trail(3, EVENTS)
    broken = first._replace(content=first.content[:-1])
    also_broken = third._replace(content=third.content[:-1])
    report = verify_segments([broken, second, also_broken], KEYS)
    assert [fault.segment for fault in report.faults] == [first.name, third.name]
    assert report.event_count == EVENTS - 1 + EVENTS + EVENTS - 1


def test_instances_are_chains_of_their_own() -> None:
    other, _ = seal([event(1)], instance="ba9876543210")
    assert verify_segments([*trail(2, 3), other], KEYS).verified


def test_a_header_claim_is_held_against_the_tree() -> None:
    first, state = seal([event(number) for number in range(4)])
    lying = state.copy()
    lying.tree.append(leaf_hash(b"another"))
    lying.next_sequence += 1
    header = lying.header("ingestion", "0123456789ab")
    content, end = start_segment(header)
    content += end.add_event(event(9))
    second = sign_segment(content, header.name, end, service="ingestion", instance="0123456789ab", key=KEY)
    assert [fault.sequence for fault in verify_segments([first, second], KEYS).faults] == [5]


def test_reader_yields_what_was_written() -> None:
    reader = SegmentReader(CONTENT)
    assert [(sequence, item) for sequence, item, _ in reader] == [(n + 1, event(n)) for n in range(EVENTS)]
    assert reader.verified_bytes == len(CONTENT)


def test_the_command_verifies_offline_and_finds_one_changed_byte(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"ingestion": [b64encode(PUBLIC_KEY).decode()]}))
    folder = tmp_path / "trail"
    folder.mkdir()
    segments = trail(2, EVENTS)
    for segment in segments:
        write_segment(folder, segment)
    assert read_directory(folder) == segments
    assert main(["verify", str(folder), "--keys", str(keys)]) == 0
    assert capsys.readouterr().out == "verified: 2 segments, 16 events, 0 faults\n"

    path = folder / f"{segments[1].name}.segment"
    changed = bytearray(path.read_bytes())
    changed[-40] ^= 1
    path.write_bytes(changed)
    assert main(["verify", str(folder), "--keys", str(keys)]) == 1
    assert f"FAULT  {segments[1].name}, event 16: " in capsys.readouterr().out


def test_the_command_says_when_there_is_nothing_to_verify(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text("{}")
    assert main(["verify", str(tmp_path), "--keys", str(keys)]) == 2
    keys.write_text("[]")
    assert main(["verify", str(tmp_path), "--keys", str(keys)]) == 2
    assert "cannot verify" in capsys.readouterr().err
