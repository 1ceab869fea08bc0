"""The servicer: messages in, messages out, one use case per method."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator

from google.protobuf.timestamp_pb2 import Timestamp

from hedgerow import names
from hedgerow.errors import InvalidArgumentError
from hedgerow.governance.v1 import governance_pb2 as pb
from libs.audit import Anchor, AnchorKind, StoredEvent
from libs.rpc import MIB, SUITE, Access, Audit, Call, Resource, Service
from services.governance.bundle import PolicyBundle
from services.governance.erasure import ErasureRequest, StoreErasure
from services.governance.erasure_runner import ErasureRunner
from services.governance.held_segment import ReportedHead
from services.governance.policy import PolicyAuthority
from services.governance.subject_search import MAX_SUBJECT_CHARACTERS
from services.governance.trail import AuditTrail

AREA = "governance"
POLICY_BUNDLE = Resource("PolicyBundle", "policyBundle")
AUDIT_TRAIL = Resource("AuditTrail", "auditTrail")
SEGMENT = "auditSegments/{segment}"
AUDIT_ANCHOR = "auditAnchors/{audit_anchor}"
ERASURE_REQUEST = "erasureRequests/{erasure_request}"
SMALL_MESSAGE = 64 * 1024
POLICY_MESSAGE = 2 * MIB
VERIFY_MARGIN_SECONDS = 2.0

_KINDS = {AnchorKind.LOST: pb.AuditAnchor.KIND_LOST, AnchorKind.EXPIRED: pb.AuditAnchor.KIND_EXPIRED}
_STATES = {
    "RUNNING": pb.ErasureRequest.STATE_RUNNING,
    "SUCCEEDED": pb.ErasureRequest.STATE_SUCCEEDED,
    "FAILED": pb.ErasureRequest.STATE_FAILED,
}


class GovernanceServicer:
    """``GovernanceService``."""

    def __init__(
        self, policies: PolicyAuthority, trail: AuditTrail, erasures: ErasureRunner, *, seal_wait_seconds: float
    ) -> None:
        """Name the parts; ``seal_wait_seconds`` bounds how long a verification waits for live writers."""
        self._policies = policies
        self._trail = trail
        self._erasures = erasures
        self._seal_wait_seconds = seal_wait_seconds

    # ---- policies

    async def create_policy_bundle(self, request: pb.CreatePolicyBundleRequest, call: Call) -> pb.PolicyBundle:
        """Validate, sign and publish a bundle."""
        bundle = await self._policies.publish(request.policies, request.principals_json, request.etag)
        call.audit_detail["version"] = bundle.version
        return _bundle(bundle)

    async def get_policy_bundle(self, request: pb.GetPolicyBundleRequest, call: Call) -> pb.PolicyBundle:
        """Return the bundle in force."""
        return _bundle(self._policies.current())

    async def watch_policy_bundle(
        self, request: pb.WatchPolicyBundleRequest, call: Call
    ) -> AsyncIterator[pb.PolicyBundle]:
        """Stream the bundle in force and each new one."""
        async for bundle in self._policies.watch():
            yield _bundle(bundle)

    # ---- the audit trail

    async def put_audit_segment(self, request: pb.PutAuditSegmentRequest, call: Call) -> pb.PutAuditSegmentResponse:
        """Take over a sealed segment of the caller."""
        segment = names.parse(SEGMENT, request.name, field="name")["segment"]
        count = await self._trail.put(call.caller.id, segment, request.content, request.checkpoint)
        return pb.PutAuditSegmentResponse(event_count=count)

    async def report_audit_head(self, request: pb.ReportAuditHeadRequest, call: Call) -> pb.ReportAuditHeadResponse:
        """Take up how far the caller's chain is durable."""
        owner = (names.check_id(request.service, "service"), names.check_id(request.instance, "instance"))
        head = ReportedHead.now(owner, request.sequence, request.chain_hash)
        return pb.ReportAuditHeadResponse(seal_now=await self._trail.report(call.caller.id, head))

    async def export_audit_trail(
        self, request: pb.ExportAuditTrailRequest, call: Call
    ) -> AsyncIterator[pb.AuditSegment]:
        """Stream every held segment."""
        segments = 0
        async for item in self._trail.export():
            segments += 1
            call.audit_detail["segments"] = segments
            name = names.build(SEGMENT, segment=item.name)
            yield pb.AuditSegment(name=name, content=item.content, checkpoint=item.checkpoint)

    async def list_audit_events(self, request: pb.ListAuditEventsRequest, call: Call) -> pb.ListAuditEventsResponse:
        """List events, newest first."""
        size = names.page_size(request.page_size)
        position = _position(request.page_token)
        rows = await self._trail.events(
            None if position is None else (position[0], _whole(position[1])),
            size,
            actor=request.actor,
            action=request.action,
            decision=request.decision,
        )
        call.audit_detail["events"] = len(rows)
        last = f"{rows[-1][1].event.event_time_ns}:{rows[-1][0]}" if len(rows) == size else ""
        token = names.encode_page_token(last) if last else ""
        return pb.ListAuditEventsResponse(events=[_event(stored) for _, stored in rows], next_page_token=token)

    async def verify_audit_trail(self, request: pb.VerifyAuditTrailRequest, call: Call) -> pb.VerifyAuditTrailResponse:
        """Verify everything held."""
        wait = min(self._seal_wait_seconds, max(0.0, call.time_left() - VERIFY_MARGIN_SECONDS))
        late = await self._trail.gather(wait) if request.seal_first else []
        report = await self._trail.verify(late)
        notes = await self._trail.anchor_notes()
        call.audit_detail.update(segments=report.segment_count, events=report.event_count, faults=len(report.faults))
        return pb.VerifyAuditTrailResponse(
            verified=report.verified,
            segment_count=report.segment_count,
            event_count=report.event_count,
            faults=[str(fault) for fault in report.faults],
            anchors=[_anchor(item, notes.get(item.id, "")) for item in report.anchors],
        )

    async def create_audit_anchor(self, request: pb.CreateAuditAnchorRequest, call: Call) -> pb.AuditAnchor:
        """Accept events as lost."""
        owner = (names.check_id(request.service, "service"), names.check_id(request.instance, "instance"))
        actor = call.caller.principal
        anchor = await self._trail.accept_loss(owner, request.sequence, actor=actor, reason=request.reason)
        call.audit_detail.update(first_sequence=anchor.first, last_sequence=anchor.last)
        return _anchor(anchor, (await self._trail.anchor_notes())[anchor.id])

    # ---- erasure

    async def create_erasure_request(self, request: pb.CreateErasureRequestRequest, call: Call) -> pb.ErasureRequest:
        """Start the erasure of a subject."""
        domain = names.check_id(request.domain, "domain")
        if not 1 <= len(request.subject) <= MAX_SUBJECT_CHARACTERS:
            what = f"expected 1 to {MAX_SUBJECT_CHARACTERS} characters"
            raise InvalidArgumentError(f"subject is missing or too long: {what}", fields={"subject": what})
        erasure = await self._erasures.create(domain, request.subject, _uuid(request.request_id))
        return _erasure(erasure)

    async def get_erasure_request(self, request: pb.GetErasureRequestRequest, call: Call) -> pb.ErasureRequest:
        """Return a request."""
        return _erasure(await self._erasures.get(_erasure_id(request.name)))

    async def list_erasure_requests(
        self, request: pb.ListErasureRequestsRequest, call: Call
    ) -> pb.ListErasureRequestsResponse:
        """List requests, newest first."""
        size = names.page_size(request.page_size)
        found = await self._erasures.page(_position(request.page_token), size)
        token = names.encode_page_token(f"{found[-1].create_ns}:{found[-1].id}") if len(found) == size else ""
        return pb.ListErasureRequestsResponse(
            erasure_requests=[_erasure(item) for item in found], next_page_token=token
        )

    async def watch_erasure_request(
        self, request: pb.WatchErasureRequestRequest, call: Call
    ) -> AsyncIterator[pb.ErasureRequest]:
        """Stream a request until it ends."""
        async for erasure in self._erasures.watch(_erasure_id(request.name)):
            yield _erasure(erasure)


def rpc_service(servicer: GovernanceServicer) -> Service:
    """Return the service with what the chain must know of each RPC.

    What a writer ships or reports is not audited itself when permitted: the trail is its own evidence, and each event
    about a segment would make the next segment. Once this service drains it is refused like any other call: the writer
    keeps its segments and ships them to whoever serves next.
    """

    def access(resource: Resource, audit: Audit, size: int = SMALL_MESSAGE) -> Access:
        return Access(lambda _: [resource], audit, max_message_bytes=size)

    def erasure_access(audit: Audit) -> Access:
        return Access(lambda r: [Resource("ErasureRequest", r.name)], audit, max_message_bytes=SMALL_MESSAGE)

    return Service(
        pb.DESCRIPTOR.services_by_name["GovernanceService"],
        servicer,
        area=AREA,
        access={
            "CreatePolicyBundle": access(POLICY_BUNDLE, Audit.DURABLE, POLICY_MESSAGE),
            "GetPolicyBundle": access(POLICY_BUNDLE, Audit.BUFFERED),
            "WatchPolicyBundle": access(POLICY_BUNDLE, Audit.NONE),
            "PutAuditSegment": access(AUDIT_TRAIL, Audit.NONE, 4 * MIB),
            "ReportAuditHead": access(AUDIT_TRAIL, Audit.NONE),
            "ExportAuditTrail": access(AUDIT_TRAIL, Audit.DURABLE),
            "ListAuditEvents": access(AUDIT_TRAIL, Audit.DURABLE),
            "VerifyAuditTrail": access(AUDIT_TRAIL, Audit.DURABLE),
            "CreateAuditAnchor": access(AUDIT_TRAIL, Audit.DURABLE),
            "CreateErasureRequest": access(SUITE, Audit.DURABLE),
            "GetErasureRequest": erasure_access(Audit.BUFFERED),
            "ListErasureRequests": access(SUITE, Audit.BUFFERED),
            "WatchErasureRequest": erasure_access(Audit.NONE),
        },
    )


def _bundle(bundle: PolicyBundle) -> pb.PolicyBundle:
    return pb.PolicyBundle(
        version=bundle.version,
        content=bundle.content,
        signature=bundle.signature,
        key_version=bundle.key_version,
        etag=bundle.etag,
        create_time=_timestamp(bundle.create_ns),
    )


def _event(stored: StoredEvent) -> pb.AuditEvent:
    event = stored.event
    return pb.AuditEvent(
        sequence=stored.sequence,
        event_time=_timestamp(event.event_time_ns),
        service=stored.service,
        actor=event.actor,
        on_behalf_of=event.on_behalf_of,
        action=event.action,
        resources=event.resources,
        purpose=event.purpose,
        decision=event.decision,
        policies=event.policies,
        code=event.code,
        request_id=event.request_id,
        count=event.count,
        detail=event.detail,
        last_request_id=event.last_request_id,
        request_ids_sha256=event.request_ids_sha256,
    )


def _anchor(anchor: Anchor, note: str) -> pb.AuditAnchor:
    return pb.AuditAnchor(
        name=names.build(AUDIT_ANCHOR, audit_anchor=anchor.id),
        kind=_KINDS[anchor.kind],
        service=anchor.service,
        instance=anchor.instance,
        first_sequence=anchor.first,
        last_sequence=anchor.last,
        actor=anchor.actor,
        reason=anchor.reason,
        create_time=_timestamp(anchor.time_ns),
        statement=note,
    )


def _erasure(request: ErasureRequest) -> pb.ErasureRequest:
    return pb.ErasureRequest(
        name=request.name,
        subject_hash=request.subject_hash,
        state=_STATES[request.state],
        stores=[_store(item) for item in request.stores],
        signature=request.signature,
        create_time=_timestamp(request.create_ns),
        end_time=_timestamp(request.end_ns) if request.end_ns else None,
        receipt=request.receipt,
    )


def _store(item: StoreErasure) -> pb.StoreErasure:
    return pb.StoreErasure(
        service=item.service,
        store=item.store,
        objects_searched=item.objects_searched,
        objects_rewritten=item.objects_rewritten,
        objects_destroyed=item.objects_destroyed,
        rows_erased=item.rows_erased,
        remaining_hits=item.remaining_hits,
        error=item.error,
    )


def _timestamp(nanoseconds: int) -> Timestamp:
    stamp = Timestamp()
    stamp.FromNanoseconds(nanoseconds)
    return stamp


def _erasure_id(name: str) -> str:
    return names.parse(ERASURE_REQUEST, name, field="name")["erasure_request"]


def _uuid(value: str) -> str:
    try:
        return str(uuid.UUID(value))
    except ValueError as error:
        raise InvalidArgumentError("request_id must be a UUID", fields={"request_id": "expected a UUID"}) from error


def _position(token: str) -> tuple[int, str] | None:
    """Return the (time, id) at which a listing goes on."""
    key = names.decode_page_token(token)
    if key is None:
        return None
    first, _, rest = key.partition(":")
    return _whole(first), rest


def _whole(text: str) -> int:
    # Neither what int() refuses for its length, nor what is too large for the store.
    if text.removeprefix("-").isdecimal() and len(text) <= 20 and abs(number := int(text)) < 2**63:
        return number
    raise InvalidArgumentError(
        "page_token is not one that a listing returned", fields={"page_token": "use next_page_token unchanged"}
    )
