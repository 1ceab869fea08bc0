"""AUD-04: a chain that is really broken is re-anchored by an operator, on the record, and nothing that is whole is lost."""

import json
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from hedgerow.identity import IdentityFolder
from libs.audit import AuditBrokenError, AuditEvent, AuditLimits
from libs.audit.__main__ import main
from libs.audit.instance import ACCEPTED, STATEMENT
from libs.audit.reanchor import EVIDENCE, accept_break
from libs.audit.segment import SegmentReader
from tests.support.audit_sink import Sink
from tests.support.audit_trail import event
from tests.support.authority import Authority, user_id

REASON = "disk 3 returned other bytes"
OPERATOR = Authority().user("operator")


async def write(directory: Path, sink: Sink, numbers: range, *, segment_bytes: int = 1_000_000) -> None:
    """Leaves events of which none is shipped: one block each."""
    sink.ship_fault = UnavailableError("governance is away")
    limits = AuditLimits(segment_bytes=segment_bytes, upkeep_seconds=3600)
    writer = sink.writer(directory, limits=limits)
    await writer.start()
    for number in numbers:
        await writer.append(event(number))
    writer._upkeep.cancel()  # type: ignore[union-attr]
    writer._instance.release()  # as a kill leaves it: neither sealed nor shipped
    sink.ship_fault = None


def only_folder(directory: Path) -> Path:
    (folder,) = directory.iterdir()
    return folder


def damage(path: Path, share: float) -> None:
    """Flips a byte that far into a file."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 1
    path.write_bytes(content)


async def restart(directory: Path, sink: Sink) -> str:
    """The next process: appends event 99, ships everything, and returns the instance it writes to."""
    async with sink.running(directory) as writer:
        await writer.append(event(99))
        await writer._tend()
        return writer.head().instance


def records(sink: Sink, instance: str) -> list[AuditEvent]:
    """What was shipped of a chain."""
    names = [name for name in sorted(sink.segments) if f"-{instance}-" in name]
    return [item for name in names for _, item, _ in SegmentReader(sink.segments[name].content)]


async def test_a_broken_tail_is_set_aside_and_a_new_chain_begins_with_the_record_of_it(tmp_path: Path) -> None:
    sink = Sink()
    await write(tmp_path, sink, range(10))
    folder = only_folder(tmp_path)
    (path,) = folder.glob("*.blocks")
    damage(path, 0.55)
    broken = path.read_bytes()
    with pytest.raises(AuditBrokenError, match=f"reanchor .* --instance {folder.name}"):
        await restart(tmp_path, sink)

    statement = accept_break(folder, OPERATOR, REASON)
    begun = await restart(tmp_path, sink)
    assert begun == statement.digest[:12]
    assert (folder / EVIDENCE / path.name).read_bytes() == broken
    assert (folder / ACCEPTED).stat().st_mode & 0o777 == 0o600

    kept = records(sink, folder.name)
    assert kept == [event(number) for number in range(5)]
    first, second = records(sink, begun)
    assert second == event(99)
    assert (first.actor, first.action, first.code) == (user_id("operator"), "audit.Reanchor", "DATA_LOSS")
    assert first.event_time_ns == statement.time_ns
    assert dict(first.detail) == {"last_good_sequence": 5, "segments_set_aside": 1}
    chain, last_good, evidence, signed, reason = first.resources
    assert chain == f"auditChains/ingestion-{folder.name}"
    assert last_good.startswith("lastGood:5:")
    assert last_good.endswith(end_of(sink, folder.name))
    assert evidence == f"evidence:sha256:{statement.evidence_sha256}"
    assert signed == f"statement:sha256:{statement.digest}"
    assert reason == f"reason:{REASON}"
    assert sink.report().verified


def end_of(sink: Sink, instance: str) -> str:
    """The chain hash behind the last event shipped."""
    last = max(name for name in sink.segments if f"-{instance}-" in name)
    return sink.segments[last].content[-32:].hex()


async def test_the_new_chain_goes_on_over_restarts_and_the_old_one_never(tmp_path: Path) -> None:
    sink = Sink()
    await write(tmp_path, sink, range(6))
    folder = only_folder(tmp_path)
    damage(next(folder.glob("*.blocks")), 0.5)
    accept_break(folder, OPERATOR, REASON)
    begun = [await restart(tmp_path, sink) for _ in range(3)]
    assert len(set(begun)) == 1
    assert [item.action for item in records(sink, begun[0])].count("audit.Reanchor") == 1
    assert sink.report().verified


async def test_whole_segments_before_the_break_are_kept_and_those_behind_it_are_evidence(tmp_path: Path) -> None:
    sink = Sink()
    await write(tmp_path, sink, range(18), segment_bytes=1_500)
    folder = only_folder(tmp_path)
    paths = sorted(folder.glob("*.blocks"))
    assert len(paths) >= 3
    damage(paths[1], 0.3)
    accept_break(folder, OPERATOR, REASON)
    await restart(tmp_path, sink)
    kept = records(sink, folder.name)
    assert kept == [event(number) for number in range(len(kept))]
    assert int(paths[1].stem) - 1 <= len(kept) < int(paths[2].stem) - 1
    assert sorted(path.name for path in (folder / EVIDENCE).iterdir()) == [path.name for path in paths[1:]]
    assert sink.report().verified


async def test_a_sealed_segment_is_never_sealed_a_second_time(tmp_path: Path) -> None:
    sink = Sink()
    sink.ship_fault = UnavailableError("governance is away")
    async with sink.running(tmp_path) as writer:
        for number in range(5):
            await writer.append(event(number))
    sink.ship_fault = None
    folder = only_folder(tmp_path)
    damage(next(folder.glob("*.blocks")), 0.9)
    accept_break(folder, OPERATOR, REASON)
    begun = await restart(tmp_path, sink)
    assert [name for name in sink.segments if folder.name in name] == []
    assert dict(records(sink, begun)[0].detail) == {"last_good_sequence": 0, "segments_set_aside": 1}
    assert {path.suffix for path in (folder / EVIDENCE).iterdir()} == {".blocks", ".checkpoint"}


async def test_a_shipped_segment_that_rots_loses_nothing(tmp_path: Path) -> None:
    sink = Sink()
    async with sink.running(tmp_path) as writer:
        for number in range(5):
            await writer.append(event(number))
    folder = only_folder(tmp_path)
    damage(next(folder.glob("*.blocks")), 0.5)
    with pytest.raises(AuditBrokenError):
        await restart(tmp_path, sink)
    accept_break(folder, OPERATOR, REASON)
    begun = await restart(tmp_path, sink)
    first = records(sink, begun)[0]
    assert dict(first.detail) == {"last_good_sequence": 5, "segments_set_aside": 0}
    assert first.resources[1] == f"lastGood:5:{end_of(sink, folder.name)}"
    assert records(sink, folder.name) == [event(number) for number in range(5)]


@pytest.mark.parametrize("call", ["rename", "hardlink_to", "unlink", "replace", "rmdir"])
async def test_an_interruption_anywhere_is_made_up_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    sink = Sink()
    await write(tmp_path, sink, range(18), segment_bytes=1_500)
    folder = only_folder(tmp_path)
    paths = sorted(folder.glob("*.blocks"))
    contents = {path.name: path.read_bytes() for path in paths}
    damage(paths[1], 0.6)
    contents[paths[1].name] = paths[1].read_bytes()
    accept_break(folder, OPERATOR, REASON)
    original = getattr(Path, call)
    interrupted = 0
    for allowed in range(20):
        left = allowed

        def interrupt(self: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0 and folder in (self, *self.parents):
                raise OSError("killed here")
            left -= folder in (self, *self.parents)
            return original(self, *arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(Path, call, interrupt)
            writer = sink.writer(tmp_path)
            try:
                await writer.start()
            except OSError:
                interrupted += 1
                continue
        await writer.close()
        break
    begun = await restart(tmp_path, sink)
    assert interrupted >= 1
    assert [item.action for item in records(sink, begun)].count("audit.Reanchor") == 1
    kept = records(sink, folder.name)
    assert kept == [event(number) for number in range(len(kept))]
    assert dict(records(sink, begun)[0].detail)["last_good_sequence"] == len(kept)
    assert {path.name: path.read_bytes() for path in (folder / EVIDENCE).iterdir()} == {
        path.name: contents[path.name] for path in paths[1:]
    }
    assert sink.report().verified


async def test_files_that_changed_after_the_acceptance_are_not_set_aside(tmp_path: Path) -> None:
    sink = Sink()
    await write(tmp_path, sink, range(6))
    folder = only_folder(tmp_path)
    (path,) = folder.glob("*.blocks")
    damage(path, 0.5)
    accept_break(folder, OPERATOR, REASON)
    damage(path, 0.8)
    with pytest.raises(AuditBrokenError, match="changed after the break was accepted"):
        await restart(tmp_path, sink)
    assert only_folder(tmp_path) == folder


@pytest.mark.parametrize("field", ["actor", "reason", "instance", "evidence_sha256", "signature", "certificate"])
async def test_a_forged_statement_accepts_nothing(tmp_path: Path, field: str) -> None:
    sink = Sink()
    await write(tmp_path, sink, range(6))
    folder = only_folder(tmp_path)
    damage(next(folder.glob("*.blocks")), 0.5)
    accept_break(folder, OPERATOR, REASON)
    document = json.loads((folder / STATEMENT).read_text())
    other = Authority().user("mia").chain_pem.decode()
    document[field] = other if field == "certificate" else f"x{document[field][1:]}"
    (folder / STATEMENT).write_text(json.dumps(document))
    with pytest.raises(AuditBrokenError, match="signature"):
        await restart(tmp_path, sink)
    assert only_folder(tmp_path) == folder


async def test_a_running_writers_chain_cannot_be_closed(tmp_path: Path) -> None:
    sink = Sink()
    async with sink.running(tmp_path) as writer:
        await writer.append(event(1))
        with pytest.raises(FailedPreconditionError, match="stop it first"):
            accept_break(only_folder(tmp_path), OPERATOR, REASON)
    folder = only_folder(tmp_path)
    with pytest.raises(FailedPreconditionError, match="not the folder"):
        accept_break(tmp_path / "absent", OPERATOR, REASON)
    for reason in ("", " ", "two\nlines", "x" * 257):
        with pytest.raises(InvalidArgumentError):
            accept_break(folder, OPERATOR, reason)
    accept_break(folder, OPERATOR, REASON)
    with pytest.raises(FailedPreconditionError, match="already"):
        accept_break(folder, OPERATOR, REASON)


async def test_the_command_signs_with_the_operators_identity(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sink, audit, own = Sink(), tmp_path / "audit", tmp_path / "identity"
    await write(audit, sink, range(6))
    instance = only_folder(audit).name
    damage(next(audit.rglob("*.blocks")), 0.5)
    arguments = ["reanchor", str(audit), "--instance", instance, "--identity", str(own), "--reason", REASON]
    assert main(arguments) == 2
    assert "no usable identity" in capsys.readouterr().err
    IdentityFolder(own).save(OPERATOR)
    assert main(arguments) == 0
    assert f"{user_id('operator')} accepted the break of chain {instance}" in capsys.readouterr().out
    assert main(arguments) == 2
    assert "already" in capsys.readouterr().err
    assert await restart(audit, sink) != instance
