"""The audit writer of a process, as its secrets and governance services stand behind it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hedgerow.client import ServiceClient
from hedgerow.governance.v1 import governance_pb2
from libs.audit import AuditWriter
from libs.config import ServiceConfig
from libs.runtime.secrets import Secrets

Ship = Callable[[str, bytes, str], Awaitable[None]]
Report = Callable[[Any], Awaitable[bool]]


def audit_writer(
    config: ServiceConfig, data_key: bytes, secrets: Secrets, *, ship: Ship, report: Report
) -> AuditWriter:
    """Return the writer of this process, not yet started.

    Args:
        config: of the service.
        data_key: encrypts its files.
        secrets: signs its segments.
        ship: takes a sealed segment over.
        report: takes the head of the trail over, and says whether to seal now.
    """
    name = f"signingKeys/{config.service}-audit"
    return AuditWriter(
        config.data_dir / "audit",
        service=config.service,
        trust_domain=config.trust_domain,
        data_key=data_key,
        sign=lambda payload: secrets.sign(name, payload),
        public_keys=lambda: secrets.verification_keys(name),
        ship=ship,
        report=report,
    )


def to_governance(client: Callable[[], ServiceClient]) -> tuple[Ship, Report]:
    """Return how segments and heads get to governance; its client is asked for when one is on its way."""

    async def ship(name: str, content: bytes, checkpoint: str) -> None:
        request = governance_pb2.PutAuditSegmentRequest(name=name, content=content, checkpoint=checkpoint)
        await client().call("PutAuditSegment", request, timeout=15.0)

    async def report(head: Any) -> bool:
        request = governance_pb2.ReportAuditHeadRequest(**head._asdict())
        answer = await client().call("ReportAuditHead", request, timeout=5.0)
        return bool(answer.seal_now)

    return ship, report
