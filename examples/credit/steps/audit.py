"""Step 6, the trail: it verifies, also offline by someone who trusts no service, and a changed byte in it is found."""

import asyncio
import datetime as dt
from collections.abc import Mapping, Sequence

from examples.credit.report.model import AuditFacts, AuditLine
from examples.credit.run import DemoError, Run
from hedgerow.governance.v1 import governance_pb2 as pb
from hedgerow.sdk import Hedgerow
from libs.audit.verify import Fault, SealedSegment, ServiceKeys, VerificationReport, verify_segments

# The report shows the newest events; a run makes some hundreds.
SHOWN = 400


async def audit(run: Run, start_time: dt.datetime) -> AuditFacts:
    """Verifies the trail in three ways and returns the events of this run."""
    pia = run.caller("pia")
    answer = await pia.governance.verify_audit_trail(seal_first=True)
    for fault in answer.faults:
        run.say(f"[red]{fault}[/red]")
    run.say(f"{answer.event_count:,} events in {answer.segment_count} segments: "
            f"{'verified' if answer.verified else 'NOT VERIFIED'} by governance")  # fmt: skip

    segments = [
        SealedSegment(segment.name.partition("/")[2], segment.content, segment.checkpoint)
        async for segment in pia.governance.export_audit_trail()
    ]
    keys = await _public_keys(pia, segments)
    offline = await asyncio.to_thread(verify_segments, segments, keys)
    run.say(f"{offline.event_count:,} exported events: {'verified' if offline.verified else 'NOT VERIFIED'} offline")
    tampered = await asyncio.to_thread(_verify_tampered, segments, keys)
    found = new_faults(offline, tampered)
    fault = str(found[0]) if found else "nothing was found"
    run.say(f"one byte changed in a copy: {fault}")

    events = await _events_since(pia, start_time)
    denied = sum(event.count for event in events if event.decision == "deny")
    return AuditFacts(
        verified=answer.verified and offline.verified,
        segments=answer.segment_count,
        events=answer.event_count,
        permitted=sum(event.count for event in events) - denied,
        denied=denied,
        delegated=sum(event.count for event in events if event.on_behalf_of),
        lines=[_line(event) for event in events[:SHOWN]],
        tamper_found=bool(found),
        tamper_fault=fault,
    )


async def _public_keys(pia: Hedgerow, segments: Sequence[SealedSegment]) -> ServiceKeys:
    services = {segment.name.partition("-")[0] for segment in segments}
    keys: Mapping[str, Sequence[bytes]] = {
        service: list((await pia.secrets.get_verification_keys(f"signingKeys/{service}-audit")).values())
        for service in sorted(services)
    }
    return keys


def _verify_tampered(segments: Sequence[SealedSegment], keys: ServiceKeys) -> VerificationReport:
    """Changes the middle byte of the largest segment and verifies again."""
    if not segments:
        raise DemoError("the trail has no segment to change a byte in")
    largest = max(range(len(segments)), key=lambda index: len(segments[index].content))
    content = bytearray(segments[largest].content)
    content[len(content) // 2] ^= 1
    changed = list(segments)
    changed[largest] = segments[largest]._replace(content=bytes(content))
    return verify_segments(changed, keys)


def new_faults(before: VerificationReport, after: VerificationReport) -> list[Fault]:
    """Returns the faults that a change brought: a trail with faults of its own proves nothing by having them."""
    return [fault for fault in after.faults if fault not in before.faults]


async def _events_since(pia: Hedgerow, start_time: dt.datetime) -> list[pb.AuditEvent]:
    """Returns the events of this run, newest first."""
    events = []
    async for event in pia.governance.list_audit_events():
        if event.event_time.ToDatetime(dt.UTC) < start_time:
            break
        events.append(event)
    return events


def _line(event: pb.AuditEvent) -> AuditLine:
    return AuditLine(
        time=event.event_time.ToDatetime(dt.UTC),
        service=event.service,
        actor=_short(event.actor),
        on_behalf_of=_short(event.on_behalf_of),
        action=event.action,
        purpose=event.purpose,
        decision=event.decision,
        policies=list(event.policies),
        code=event.code,
        count=event.count,
    )


def _short(spiffe_id: str) -> str:
    """Returns the last part of a SPIFFE ID, which is the person's or the service's name."""
    return spiffe_id.rpartition("/")[2]
