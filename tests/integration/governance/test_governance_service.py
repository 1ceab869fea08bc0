"""The service on a real port with the project's own policies: every RPC, its rights, its errors."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hedgerow import names
from hedgerow.client import ServiceClient
from hedgerow.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from hedgerow.governance.v1 import governance_pb2 as pb
from libs.audit import SealedSegment, verify_segments
from libs.audit.anchor import open_anchor
from services.governance.policy import PolicyAuthority
from services.governance.service import GovernanceServicer, rpc_service
from services.governance.store import PolicyStore
from tests.support.audit_trail import PUBLIC_KEY, event, seal, trail
from tests.support.governance import SIGNING_KEY, Eraser, database, make_runner, make_trail, pseudonym, sign
from tests.support.serving import POLICIES, Served, project_bundle, serving

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GovernanceService"]
REQUEST_ID = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"
PIA, OPERATOR, ANA = "pia", "operator", "ana"


@dataclass
class Suite:
    """A served governance and its neighbours."""

    served: Served
    lake: Eraser
    logs: Path

    def user(self, name: str) -> ServiceClient:
        return self.served.client(self.served.authority.user(name), DESCRIPTOR)

    def service(self, name: str) -> ServiceClient:
        return self.served.client(self.served.authority.service(name), DESCRIPTOR)


@pytest.fixture
async def suite(tmp_path: Path) -> AsyncIterator[Suite]:
    logs = tmp_path / "logs"
    logs.mkdir()
    lake = Eraser("ingestion", "lake")
    content = project_bundle()
    envelope = {
        "content": base64.b64encode(content).decode(),
        "signature": base64.b64encode(SIGNING_KEY.sign(content)).decode(),
        "key_version": 1,
    }

    async def apply(bundle: object) -> None:
        """This test's server keeps the bundle it started with."""

    with database(tmp_path) as opened:
        audit = make_trail(opened, tmp_path)
        await audit.start()
        policies = PolicyAuthority(PolicyStore(opened), sign, apply)
        await policies.start(envelope, {1: SIGNING_KEY.public_key().public_bytes_raw()})
        runner = make_runner(opened, audit, [lake], logs)
        servicer = GovernanceServicer(policies, audit, runner, seal_wait_seconds=0.1)
        async with serving(tmp_path, [rpc_service(servicer)], name="governance") as served:
            yield Suite(served, lake, logs)
            await runner.close()


def segment_request(segment: SealedSegment) -> pb.PutAuditSegmentRequest:
    return pb.PutAuditSegmentRequest(
        name=f"auditSegments/{segment.name}", content=segment.content, checkpoint=segment.checkpoint
    )


async def put(suite: Suite, segments: Iterable[SealedSegment]) -> None:
    client = suite.service("ingestion")
    for segment in segments:
        assert (await client.call("PutAuditSegment", segment_request(segment))).event_count > 0


# ---- policies


async def test_a_bundle_is_published_and_pushed(suite: Suite) -> None:
    operator, watcher = suite.user(OPERATOR), suite.service("ingestion")
    current = await operator.call("GetPolicyBundle", pb.GetPolicyBundleRequest())
    assert (current.version, current.content) == (1, project_bundle())
    pushed = watcher.stream("WatchPolicyBundle", pb.WatchPolicyBundleRequest())
    assert (await anext(pushed)).version == 1
    source = "\n".join(path.read_text() for path in sorted(POLICIES.glob("*.cedar")))
    request = pb.CreatePolicyBundleRequest(
        policies=source, principals_json=(POLICIES / "principals.json").read_text(), etag=current.etag
    )
    made = await operator.call("CreatePolicyBundle", request)
    assert (await anext(pushed)) == made
    SIGNING_KEY.public_key().verify(made.signature, made.content)
    with pytest.raises(AbortedError) as stale:
        await operator.call("CreatePolicyBundle", request)
    assert stale.value.reason == "CONCURRENT_CHANGE"
    with pytest.raises(InvalidArgumentError) as refused:
        request = pb.CreatePolicyBundleRequest(policies="x", principals_json="{}", etag=made.etag)
        await operator.call("CreatePolicyBundle", request)
    assert list(refused.value.fields) == ["policies"]
    await pushed.aclose()  # type: ignore[attr-defined]


# ---- the trail


async def test_segments_are_gathered_listed_exported_and_verified(suite: Suite) -> None:
    segments = trail(2, 3)
    await put(suite, segments)
    pia = suite.user(PIA)
    verified = await pia.call("VerifyAuditTrail", pb.VerifyAuditTrailRequest(seal_first=True))
    assert (verified.verified, verified.segment_count, verified.event_count, list(verified.faults)) == (True, 2, 6, [])

    exported = [
        SealedSegment(item.name, item.content, item.checkpoint)
        async for item in pia.stream("ExportAuditTrail", pb.ExportAuditTrailRequest())
    ]
    assert verify_segments(exported, {"ingestion": [PUBLIC_KEY]}).event_count == 6
    assert [item.name for item in exported] == [f"auditSegments/{item.name}" for item in segments]

    listed: list[pb.AuditEvent] = []
    token = ""
    while True:
        page = await pia.call("ListAuditEvents", pb.ListAuditEventsRequest(page_size=4, page_token=token))
        listed += page.events
        token = page.next_page_token
        if not token:
            break
    assert [item.sequence for item in listed] == [6, 5, 4, 3, 2, 1]
    newest = listed[0]
    assert newest.event_time.ToNanoseconds() == event(5).event_time_ns
    assert (newest.service, newest.action, dict(newest.detail)) == ("ingestion", "ingestion.AppendRecords", {"rows": 5})
    none = await pia.call("ListAuditEvents", pb.ListAuditEventsRequest(decision="deny"))
    assert (list(none.events), none.next_page_token) == ([], "")


async def test_a_broken_segment_is_refused_with_its_place(suite: Suite) -> None:
    segment = trail(1, 3)[0]
    changed = bytearray(segment.content)
    changed[-1] ^= 1
    with pytest.raises(FailedPreconditionError) as caught:
        await suite.service("ingestion").call(
            "PutAuditSegment", segment_request(segment._replace(content=bytes(changed)))
        )
    assert caught.value.reason == "AUDIT_BROKEN"
    assert caught.value.metadata == {"segment": segment.name, "record": "3"}


async def test_segments_are_taken_from_their_own_service_only(suite: Suite) -> None:
    segment = trail(1, 3)[0]
    with pytest.raises(PermissionDeniedError) as caught:
        await suite.service("features").call("PutAuditSegment", segment_request(segment))
    assert caught.value.reason == "POLICY_DENIED"
    with pytest.raises(PermissionDeniedError):
        await suite.user(PIA).call("PutAuditSegment", segment_request(segment))


async def test_bad_segments_get_their_codes(suite: Suite) -> None:
    client = suite.service("ingestion")
    with pytest.raises(InvalidArgumentError):
        await client.call("PutAuditSegment", pb.PutAuditSegmentRequest(name="segments/x"))
    with pytest.raises(InvalidArgumentError):
        await client.call(
            "PutAuditSegment", pb.PutAuditSegmentRequest(name="auditSegments/ingestion-a-1", content=bytes(3_200_000))
        )
    with pytest.raises(ResourceExhaustedError) as caught:
        await client.call(
            "PutAuditSegment", pb.PutAuditSegmentRequest(name="auditSegments/ingestion-a-1", content=bytes(4_194_304))
        )
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    await put(suite, [seal([event(1)])[0]])
    with pytest.raises(AlreadyExistsError):
        await client.call("PutAuditSegment", segment_request(seal([event(2)])[0]))


async def test_heads_are_taken_from_their_own_service_only(suite: Suite) -> None:
    client = suite.service("ingestion")
    head = pb.ReportAuditHeadRequest(service="ingestion", instance="0123456789ab", sequence=2, chain_hash=bytes(32))
    assert not (await client.call("ReportAuditHead", head)).seal_now
    verified = await suite.user(PIA).call("VerifyAuditTrail", pb.VerifyAuditTrailRequest(seal_first=True))
    assert list(verified.faults) == ["ingestion-0123456789ab: the writer did not seal and ship its events within 0 s"]
    head.service = "features"
    with pytest.raises(PermissionDeniedError):
        await client.call("ReportAuditHead", head)
    head.service, head.chain_hash = "ingestion", b""
    with pytest.raises(InvalidArgumentError):
        await client.call("ReportAuditHead", head)
    head.sequence, head.chain_hash = 1, bytes(32)
    with pytest.raises(FailedPreconditionError) as caught:
        await client.call("ReportAuditHead", head)
    assert caught.value.reason == "AUDIT_BROKEN"


async def test_an_operator_accepts_a_loss_and_every_verification_lists_it(suite: Suite) -> None:
    first, _, third = trail(3, 3)
    await put(suite, [first, third])
    pia, operator = suite.user(PIA), suite.user(OPERATOR)
    request = pb.CreateAuditAnchorRequest(service="ingestion", instance="0123456789ab", sequence=3, reason="ticket 7")
    with pytest.raises(PermissionDeniedError):
        await pia.call("CreateAuditAnchor", request)
    assert not (await pia.call("VerifyAuditTrail", pb.VerifyAuditTrailRequest())).verified
    anchor = await operator.call("CreateAuditAnchor", request)
    assert anchor.name == "auditAnchors/ingestion-0123456789ab-0000000000000004-lost"
    assert (anchor.kind, anchor.first_sequence, anchor.last_sequence) == (pb.AuditAnchor.KIND_LOST, 4, 6)
    assert (anchor.actor, anchor.reason) == ("spiffe://hedgerow.local/user/operator", "ticket 7")
    assert open_anchor(anchor.statement, [SIGNING_KEY.public_key().public_bytes_raw()]).first == 4
    verified = await pia.call("VerifyAuditTrail", pb.VerifyAuditTrailRequest())
    assert (verified.verified, verified.event_count, list(verified.anchors)) == (True, 6, [anchor])
    (recorded,) = [item for item in suite.served.events if item.code == "OK" and "Anchor" in item.action]
    assert dict(recorded.detail) == {"first_sequence": 4, "last_sequence": 6}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"service": "No!"}, "service"),
        ({"instance": ""}, "instance"),
        ({"sequence": -1}, "sequence"),
        ({"reason": ""}, "reason"),
    ],
)
async def test_a_malformed_anchor_is_refused(suite: Suite, changes: dict[str, Any], field: str) -> None:
    fields = {"service": "ingestion", "instance": "0123456789ab", "sequence": 3, "reason": "x"} | changes
    with pytest.raises(InvalidArgumentError) as caught:
        await suite.user(OPERATOR).call("CreateAuditAnchor", pb.CreateAuditAnchorRequest(**fields))
    assert list(caught.value.fields) == [field]


# ---- erasure


async def test_an_erasure_is_carried_out_and_leaves_no_trace_of_the_subject(suite: Suite) -> None:
    pia = suite.user(PIA)
    request = pb.CreateErasureRequestRequest(domain="credit", subject="client-7", request_id=REQUEST_ID)
    created = await pia.call("CreateErasureRequest", request, purpose="erasure")
    watch = pb.WatchErasureRequestRequest(name=created.name)
    states = [state async for state in pia.stream("WatchErasureRequest", watch, purpose="erasure")]
    ended = states[-1]
    assert ended.state == pb.ErasureRequest.STATE_SUCCEEDED
    assert ended.subject_hash == await pseudonym("credit", "client-7")
    SIGNING_KEY.public_key().verify(ended.signature, ended.receipt)
    assert json.loads(ended.receipt)["stores"][0]["rows_erased"] == 7
    assert ended.end_time.ToNanoseconds() > ended.create_time.ToNanoseconds()

    assert await pia.call("GetErasureRequest", pb.GetErasureRequestRequest(name=created.name)) == ended
    assert await pia.call("CreateErasureRequest", request, purpose="erasure") == ended
    listed = await pia.call("ListErasureRequests", pb.ListErasureRequestsRequest(page_size=1))
    assert list(listed.erasure_requests) == [ended]
    rest = await pia.call(
        "ListErasureRequests", pb.ListErasureRequestsRequest(page_size=1, page_token=listed.next_page_token)
    )
    assert list(rest.erasure_requests) == []

    assert all("client-7" not in repr(item) for item in suite.served.events)
    (created_event,) = {item for item in map(_action_and_purpose, suite.served.events) if "Create" in item[0]}
    assert created_event == ("governance.CreateErasureRequest", "erasure")


def _action_and_purpose(item: Any) -> tuple[str, str]:
    return item.action, item.purpose


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"domain": "Credit!"}, "domain"),
        ({"domain": ""}, "domain"),
        ({"subject": ""}, "subject"),
        ({"subject": "x" * 257}, "subject"),
        ({"request_id": "1"}, "request_id"),
    ],
)
async def test_a_malformed_erasure_is_refused_without_quoting_the_subject(
    suite: Suite, changes: dict[str, str], field: str
) -> None:
    fields = {"domain": "credit", "subject": "client-7", "request_id": REQUEST_ID} | changes
    with pytest.raises(InvalidArgumentError) as caught:
        await suite.user(PIA).call("CreateErasureRequest", pb.CreateErasureRequestRequest(**fields), purpose="erasure")
    assert list(caught.value.fields) == [field]
    assert "client-7" not in caught.value.message
    assert suite.lake.asked == []


async def test_unknown_erasures_are_not_found(suite: Suite) -> None:
    pia = suite.user(PIA)
    with pytest.raises(NotFoundError):
        await pia.call("GetErasureRequest", pb.GetErasureRequestRequest(name="erasureRequests/absent"))
    with pytest.raises(NotFoundError):
        async for _ in pia.stream("WatchErasureRequest", pb.WatchErasureRequestRequest(name="erasureRequests/absent")):
            pass
    with pytest.raises(InvalidArgumentError):
        await pia.call("GetErasureRequest", pb.GetErasureRequestRequest(name="absent"))


@pytest.mark.parametrize("method", ["ListAuditEvents", "ListErasureRequests"])
@pytest.mark.parametrize(
    "fields",
    [
        {"page_size": -1},
        {"page_token": "!"},
        {"page_token": "eDp5"},
        {"page_token": names.encode_page_token("9" * 19 + ":1")},
        {"page_token": names.encode_page_token("9" * 5000 + ":1")},
    ],
)
async def test_malformed_pages_are_refused(suite: Suite, method: str, fields: dict[str, Any]) -> None:
    request = {"ListAuditEvents": pb.ListAuditEventsRequest, "ListErasureRequests": pb.ListErasureRequestsRequest}
    with pytest.raises(InvalidArgumentError):
        await suite.user(PIA).call(method, request[method](**fields))


# ---- rights

REFUSED = {
    "CreatePolicyBundle": pb.CreatePolicyBundleRequest(),
    "GetPolicyBundle": pb.GetPolicyBundleRequest(),
    "WatchPolicyBundle": pb.WatchPolicyBundleRequest(),
    "PutAuditSegment": pb.PutAuditSegmentRequest(name="auditSegments/ingestion-a-1"),
    "ReportAuditHead": pb.ReportAuditHeadRequest(service="ingestion", instance="a"),
    "ExportAuditTrail": pb.ExportAuditTrailRequest(),
    "ListAuditEvents": pb.ListAuditEventsRequest(),
    "VerifyAuditTrail": pb.VerifyAuditTrailRequest(),
    "CreateAuditAnchor": pb.CreateAuditAnchorRequest(service="ingestion", instance="a", reason="x"),
    "CreateErasureRequest": pb.CreateErasureRequestRequest(domain="credit", subject="x", request_id=REQUEST_ID),
    "GetErasureRequest": pb.GetErasureRequestRequest(name="erasureRequests/a"),
    "ListErasureRequests": pb.ListErasureRequestsRequest(),
    "WatchErasureRequest": pb.WatchErasureRequestRequest(name="erasureRequests/a"),
}


@pytest.mark.parametrize("method", sorted(REFUSED))
async def test_who_has_no_rights_is_refused_and_audited(suite: Suite, method: str) -> None:
    mia = suite.user("mia")
    with pytest.raises(PermissionDeniedError):
        await _call(mia, method, REFUSED[method])
    async with asyncio.timeout(10):
        while not suite.served.events:
            await asyncio.sleep(0.01)
    assert [(item.action, item.decision) for item in suite.served.events] == [(f"governance.{method}", "deny")]


def test_every_rpc_is_walked() -> None:
    assert set(REFUSED) == {method.name for method in DESCRIPTOR.methods}


async def _call(client: ServiceClient, method: str, request: Any) -> None:
    if DESCRIPTOR.methods_by_name[method].server_streaming:
        async for _ in client.stream(method, request, timeout=10):
            pass
    else:
        await client.call(method, request, timeout=10)
