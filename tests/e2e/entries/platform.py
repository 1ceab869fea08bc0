"""Entries of secrets and governance, and of what every port serves."""

from __future__ import annotations

import json
from typing import Final

from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from hedgerow.governance.v1 import governance_pb2 as governance
from hedgerow.secrets.v1 import secrets_pb2 as secrets
from tests.e2e.entries.entry import FALSE_NAME, MIB, NONE, SMALL, UUID, Entry, listed, named

_data_key, _wrap, _unwrap, _sign = (
    secrets.CreateDataKeyRequest, secrets.WrapKeyRequest, secrets.UnwrapKeyRequest, secrets.SignRequest,
)  # fmt: skip
_KEY: Final = f"keys/features-{NONE}"
_SIGNING_KEY: Final = f"signingKeys/features-{NONE}"
SECRETS = {
    "RenewCertificate": Entry(
        "ana",
        secrets.RenewCertificateRequest(),
        [(secrets.RenewCertificateRequest(csr_pem="x"), "csr_pem")],
        answer="INVALID_ARGUMENT FIELD_INVALID",
        limit=SMALL,
    ),
    "RevokeCertificate": Entry(
        "operator",
        secrets.RevokeCertificateRequest(serial="abc"),
        [(secrets.RevokeCertificateRequest(serial="XYZ"), "serial")],
        answer="INVALID_ARGUMENT FIELD_INVALID",
        limit=SMALL,
    ),
    "WatchTrust": Entry("ana", secrets.WatchTrustRequest(), answer="", limit=SMALL),
    "CreateDataKey": Entry(
        "service/features", _data_key(key=_KEY), [(_data_key(key=FALSE_NAME), "key")], answer="", limit=SMALL
    ),
    "WrapKey": Entry(
        "service/features",
        _wrap(key=_KEY, plaintext=b"x"),
        [(_wrap(key=FALSE_NAME, plaintext=b"x"), "key"), (_wrap(key=_KEY), "plaintext")],
        answer="",
        limit=SMALL,
    ),
    "UnwrapKey": Entry(
        "service/features",
        _unwrap(key="keys/features-never_made", wrapped=b"vault:v1:AAAA"),
        [(_unwrap(key=FALSE_NAME, wrapped=b"x"), "key"), (_unwrap(key=_KEY), "wrapped")],
        limit=SMALL,
    ),
    "GetPseudonymKey": Entry(
        "service/features",
        secrets.GetPseudonymKeyRequest(name=f"pseudonymKeys/{NONE}"),
        [(secrets.GetPseudonymKeyRequest(name=FALSE_NAME), "name")],
        answer="",
        limit=SMALL,
    ),
    "Sign": Entry(
        "service/features",
        _sign(key=_SIGNING_KEY, payload=b"x"),
        [(_sign(key=FALSE_NAME, payload=b"x"), "key"), (_sign(key=_SIGNING_KEY), "payload")],
        answer="",
        limit=MIB + SMALL,
    ),
    "GetVerificationKey": Entry(
        "ana",
        secrets.GetVerificationKeyRequest(key="signingKeys/features-never_made"),
        [(secrets.GetVerificationKeyRequest(key=FALSE_NAME), "key")],
        limit=SMALL,
    ),
}

_bundle, _segment, _head, _erase = (
    governance.CreatePolicyBundleRequest, governance.PutAuditSegmentRequest, governance.ReportAuditHeadRequest,
    governance.CreateErasureRequestRequest,
)  # fmt: skip
_anchor = governance.CreateAuditAnchorRequest
_POLICY: Final = '@id("x") permit (principal, action, resource);'
GOVERNANCE = {
    "CreatePolicyBundle": Entry(
        "operator",
        _bundle(policies=_POLICY, principals_json=json.dumps({}), etag="former"),
        [(_bundle(policies=_POLICY, principals_json="["), "principals_json")],
        answer="ABORTED CONCURRENT_CHANGE",
        limit=2 * MIB,
    ),
    "GetPolicyBundle": Entry("pia", governance.GetPolicyBundleRequest(), answer="", limit=SMALL),
    "WatchPolicyBundle": Entry("service/features", governance.WatchPolicyBundleRequest(), answer="", limit=SMALL),
    "PutAuditSegment": Entry(
        "service/features",
        _segment(name="auditSegments/features-0123456789ab-1", content=b"x", checkpoint="x"),
        [(_segment(name=FALSE_NAME), "name")],
        answer="FAILED_PRECONDITION AUDIT_BROKEN",
    ),
    "ReportAuditHead": Entry(
        "service/features",
        _head(service="features", instance="0123456789ab"),
        [(_head(service=FALSE_NAME, instance="1"), "service"), (_head(service="features"), "instance")],
        answer="INVALID_ARGUMENT FIELD_INVALID",
        limit=SMALL,
    ),
    "ExportAuditTrail": Entry("pia", governance.ExportAuditTrailRequest(), answer="", limit=SMALL),
    "ListAuditEvents": listed("pia", governance.ListAuditEventsRequest, limit=SMALL),
    "VerifyAuditTrail": Entry("pia", governance.VerifyAuditTrailRequest(), answer="", limit=SMALL),
    "CreateAuditAnchor": Entry(
        "operator",
        _anchor(service="features", instance=NONE, sequence=1, reason="a disk was lost"),
        [
            (_anchor(service=FALSE_NAME, instance=NONE, sequence=1, reason="x"), "service"),
            (_anchor(service="features", instance=FALSE_NAME, sequence=1, reason="x"), "instance"),
            (_anchor(service="features", instance=NONE, sequence=1), "reason"),
        ],
        answer="FAILED_PRECONDITION STATE_CONFLICT",
        limit=SMALL,
    ),
    "CreateErasureRequest": Entry(
        "pia",
        _erase(domain=NONE, subject="x", request_id=UUID),
        [
            (_erase(domain=FALSE_NAME, subject="x", request_id=UUID), "domain"),
            (_erase(domain=NONE, request_id=UUID), "subject"),
            (_erase(domain=NONE, subject="x", request_id="1"), "request_id"),
        ],
        answer="",
        limit=SMALL,
    ),
    "GetErasureRequest": named("pia", governance.GetErasureRequestRequest, "erasureRequests", limit=SMALL),
    "ListErasureRequests": listed("pia", governance.ListErasureRequestsRequest, limit=SMALL),
    "WatchErasureRequest": named("pia", governance.WatchErasureRequestRequest, "erasureRequests", limit=SMALL),
}

_check = health_pb2.HealthCheckRequest
STANDARD = {
    "grpc.health.v1.Health/Check": Entry("ana", _check(service=NONE)),
    "grpc.health.v1.Health/Watch": Entry("ana", _check(service=NONE), answer="OK"),
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Entry(
        "ana", reflection_pb2.ServerReflectionRequest(list_services=""), answer="OK"
    ),
}
