"""Anchors: what they say, who may say it, and that they forgive nothing but what they name."""

import json
from base64 import b64encode
from dataclasses import replace
from pathlib import Path

import pytest

from libs.audit import Anchor, AnchorKind, SealedSegment, VerificationReport, verify_segments
from libs.audit.__main__ import main
from libs.audit.anchor import ANCHOR_KEY_NAME, ANCHOR_KEYS, open_anchor
from libs.audit.checkpoint import CheckpointError, key_name, sign_note
from libs.audit.segment import ChainState, empty_state
from libs.audit.verify import write_segment
from tests.support.audit_trail import KEY, PUBLIC_KEY, event, seal, trail

KEYS = {"ingestion": [PUBLIC_KEY], ANCHOR_KEYS: [PUBLIC_KEY]}
OPERATOR = "spiffe://hedgerow.local/user/operator"
LOST = Anchor(
    AnchorKind.LOST, "ingestion", "0123456789ab", 5, 8, OPERATOR, 1_795_000_000_123_456_789, "disk 3, ticket 7"
)


def sign(body: str, name: str = ANCHOR_KEY_NAME) -> str:
    return sign_note(body, name, PUBLIC_KEY, KEY.sign(body.encode()))


def expired(end: ChainState) -> Anchor:
    changes = {"chain_hash": end.chain_hash, "tree_roots": end.tree.roots, "reason": "the retention of 400 days"}
    return replace(LOST, kind=AnchorKind.EXPIRED, first=1, last=end.next_sequence - 1, **changes)


def report(segments: list[SealedSegment], *anchors: Anchor) -> VerificationReport:
    return verify_segments(segments, KEYS, [sign(anchor.body()) for anchor in anchors])


def chain(segments: int) -> tuple[list[SealedSegment], list[ChainState]]:
    made, ends, state = [], [], empty_state()
    for number in range(segments):
        segment, state = seal([event(4 * number + offset) for offset in range(4)], state)
        made.append(segment)
        ends.append(state)
    return made, ends


@pytest.mark.parametrize("anchor", [LOST, expired(chain(3)[1][2]), replace(LOST, reason="zerstört — 3")])
def test_an_anchor_is_read_as_it_was_written(anchor: Anchor) -> None:
    assert open_anchor(sign(anchor.body()), [PUBLIC_KEY]) == anchor


def test_every_changed_character_is_found() -> None:
    note = sign(LOST.body())
    for position in range(len(note) - 1):
        changed = note[:position] + ("1" if note[position] != "1" else "2") + note[position + 1 :]
        with pytest.raises(CheckpointError):
            open_anchor(changed, [PUBLIC_KEY])


@pytest.mark.parametrize(
    "anchor",
    [
        replace(LOST, first=0),
        replace(LOST, first=9),
        replace(LOST, instance="../x"),
        replace(LOST, reason="two\nlines"),
        replace(expired(chain(1)[1][0]), first=2),
        replace(expired(chain(1)[1][0]), tree_roots=(bytes(32), bytes(32))),
        replace(expired(chain(1)[1][0]), chain_hash=b"short"),
    ],
)
def test_a_malformed_anchor_is_refused(anchor: Anchor) -> None:
    with pytest.raises(CheckpointError):
        open_anchor(sign(anchor.body()), [PUBLIC_KEY])


def test_a_services_own_signature_makes_no_anchor() -> None:
    with pytest.raises(CheckpointError):
        open_anchor(sign(LOST.body(), key_name("ingestion")), [PUBLIC_KEY])


def test_what_is_accepted_is_verified_and_listed() -> None:
    first, _, third = trail(3, 4)
    assert not report([first, third]).verified
    accepted = report([first, third], LOST)
    assert (accepted.verified, accepted.event_count, accepted.anchors) == (True, 8, (LOST,))


@pytest.mark.parametrize(
    "anchor",
    [
        replace(LOST, first=6),
        replace(LOST, last=7),
        replace(LOST, instance="ba9876543210"),
        replace(LOST, service="features"),
        expired(chain(2)[1][1]),
    ],
)
def test_an_anchor_forgives_nothing_but_what_it_names(anchor: Anchor) -> None:
    first, _, third = trail(3, 4)
    outcome = report([first, third], anchor)
    assert [fault.sequence for fault in outcome.faults] == [5]
    assert outcome.anchors == (anchor,)


def test_tampering_elsewhere_is_still_found() -> None:
    first, _, third, fourth = trail(4, 4)
    changed = bytearray(third.content)
    changed[-40] ^= 1
    outcome = report([first, third._replace(content=bytes(changed)), fourth], LOST)
    assert [(fault.segment, fault.sequence) for fault in outcome.faults] == [(third.name, 12)]
    assert [fault.sequence for fault in report([first, fourth], LOST).faults] == [5]


def test_what_is_held_stays_bound_although_it_is_accepted_as_lost() -> None:
    first, second, third = trail(3, 4)
    assert report([first, second, third], LOST).verified
    forked, _ = seal([event(99)] * 4, seal([event(number) for number in range(10, 14)])[1])
    assert [fault.segment for fault in report([first, forked], LOST).faults] == [forked.name]


def test_an_anchor_that_is_not_signed_is_a_fault_and_accepts_nothing() -> None:
    first, _, third = trail(3, 4)
    outcome = verify_segments([first, third], KEYS, [sign(LOST.body()).replace("lost 5 8", "lost 5 9")])
    assert sorted(fault.segment for fault in outcome.faults) == ["anchor", third.name]
    assert outcome.anchors == ()


def test_what_remains_must_continue_what_expired() -> None:
    segments, ends = chain(4)
    outcome = report(segments[2:], expired(ends[1]))
    assert (outcome.verified, outcome.event_count) == (True, 8)
    assert [fault.sequence for fault in report(segments[3:], expired(ends[1])).faults] == [9]
    forged = replace(expired(ends[1]), chain_hash=bytes(32))
    assert [fault.sequence for fault in report(segments[2:], forged).faults] == [9]


@pytest.mark.parametrize("left", [0, 1, 2])
def test_an_interrupted_removal_verifies(left: int) -> None:
    segments, ends = chain(4)
    assert report(segments[left:], expired(ends[2])).verified


def test_the_command_takes_anchors_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, _, third = trail(3, 4)
    for segment in (first, third):
        write_segment(tmp_path, segment)
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({name: [b64encode(PUBLIC_KEY).decode()] for name in KEYS}))
    arguments = ["verify", str(tmp_path), "--keys", str(keys)]
    assert main(arguments) == 1
    (tmp_path / f"{LOST.id}.anchor").write_text(sign(LOST.body()))
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == (
        f"ANCHOR ingestion-0123456789ab, events 5 to 8: lost, accepted by {OPERATOR}: disk 3, ticket 7\n"
        "verified: 2 segments, 8 events, 0 faults\n"
    )
