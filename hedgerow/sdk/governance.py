"""Client of the governance service: policies, the audit trail and erasure."""

import uuid
from collections.abc import AsyncIterator

from hedgerow.governance.v1 import governance_pb2 as pb
from hedgerow.sdk.facade import WORK_SECONDS, WRITE_SECONDS, Facade, Progress

_Erasure = pb.ErasureRequest


class Governance(Facade):
    """Policies, the audit trail and erasure."""

    async def get_policy_bundle(self) -> pb.PolicyBundle:
        """Returns the policy bundle in force."""
        bundle: pb.PolicyBundle = await self._call("GetPolicyBundle", pb.GetPolicyBundleRequest())
        return bundle

    async def create_policy_bundle(self, policies: str, principals_json: str, etag: str) -> pb.PolicyBundle:
        """Publishes a policy bundle in place of the one with `etag`."""
        request = pb.CreatePolicyBundleRequest(policies=policies, principals_json=principals_json, etag=etag)
        bundle: pb.PolicyBundle = await self._call("CreatePolicyBundle", request, timeout=WRITE_SECONDS)
        return bundle

    def list_audit_events(
        self, *, actor: str = "", action: str = "", decision: str = ""
    ) -> AsyncIterator[pb.AuditEvent]:
        """Yields audit events, newest first; `decision` is `permit` or `deny`."""
        request = pb.ListAuditEventsRequest(actor=actor, action=action, decision=decision)
        return self._pages("ListAuditEvents", request, "events")

    async def verify_audit_trail(self, *, seal_first: bool = True) -> pb.VerifyAuditTrailResponse:
        """Verifies every held segment, and with `seal_first` also what was written up to now."""
        request = pb.VerifyAuditTrailRequest(seal_first=seal_first)
        response: pb.VerifyAuditTrailResponse = await self._call("VerifyAuditTrail", request, timeout=WRITE_SECONDS)
        return response

    async def create_audit_anchor(self, service: str, instance: str, sequence: int, reason: str) -> pb.AuditAnchor:
        """Accepts, as an operator, that the events of a chain after `sequence` are lost; later verifications say so."""
        request = pb.CreateAuditAnchorRequest(service=service, instance=instance, sequence=sequence, reason=reason)
        anchor: pb.AuditAnchor = await self._call("CreateAuditAnchor", request, timeout=WRITE_SECONDS)
        return anchor

    def export_audit_trail(self, *, timeout: float = WORK_SECONDS) -> AsyncIterator[pb.AuditSegment]:
        """Yields every held segment with its signed checkpoint, for verification elsewhere."""
        request = pb.ExportAuditTrailRequest()
        return self._client.stream("ExportAuditTrail", request, timeout=timeout, purpose=self._purpose)

    async def create_erasure_request(self, domain: str, subject: str, *, request_id: str = "") -> pb.ErasureRequest:
        """Starts the erasure of one subject from every store."""
        request = pb.CreateErasureRequestRequest(
            domain=domain, subject=subject, request_id=request_id or str(uuid.uuid4())
        )
        erasure: pb.ErasureRequest = await self._call("CreateErasureRequest", request, timeout=WRITE_SECONDS)
        return erasure

    async def get_erasure_request(self, name: str) -> pb.ErasureRequest:
        """Returns `erasureRequests/{erasure_request}` with its receipt so far."""
        erasure: pb.ErasureRequest = await self._call("GetErasureRequest", pb.GetErasureRequestRequest(name=name))
        return erasure

    def list_erasure_requests(self) -> AsyncIterator[pb.ErasureRequest]:
        """Yields all erasure requests, newest first."""
        return self._pages("ListErasureRequests", pb.ListErasureRequestsRequest(), "erasure_requests")

    async def wait_for_erasure(
        self, name: str, *, timeout: float = WORK_SECONDS, progress: Progress | None = None
    ) -> pb.ErasureRequest:
        """Returns an erasure once every store reported the subject gone; raises FailedPreconditionError otherwise."""
        done: pb.ErasureRequest = await self._wait(
            "WatchErasureRequest",
            pb.WatchErasureRequestRequest(name=name),
            good=_Erasure.STATE_SUCCEEDED,
            bad=[_Erasure.STATE_FAILED],
            timeout=timeout,
            progress=progress,
        )
        return done
