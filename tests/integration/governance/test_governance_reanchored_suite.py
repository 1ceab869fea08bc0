"""AUD-04 on the real suite: governance's own chain breaks, an operator re-anchors it, and accepts another one's loss."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from hedgerow.client import ServiceClient
from hedgerow.errors import FailedPreconditionError, PermissionDeniedError
from hedgerow.governance.v1 import governance_pb2 as pb
from hedgerow.sdk import Hedgerow
from libs.audit.__main__ import main
from libs.audit.anchor import ANCHOR_KEYS, open_anchor
from tests.support.suite import RunningSuite, running_suite

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["GovernanceService"]
LOST = "0123456789ab"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    with running_suite(tmp_path_factory.mktemp("reanchor") / "suite", ["secrets", "governance"]) as running:
        yield running


def break_last_segment(instance: Path) -> None:
    path = max(instance.glob("*.blocks"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@contextlib.asynccontextmanager
async def connected(suite: RunningSuite) -> AsyncIterator[Hedgerow]:
    pia = await suite.connect("pia")
    try:
        yield pia
    finally:
        await pia.close()


async def test_governance_starts_again_on_a_new_chain_and_says_why(suite: RunningSuite) -> None:
    operator = await suite.person("operator")
    async with connected(suite) as pia:
        assert (await pia.governance.verify_audit_trail()).verified
    assert suite.run("down").returncode == 0
    audit = suite.config.service_folder("governance") / "audit"
    (instance,) = audit.iterdir()
    break_last_segment(instance)
    arguments = ["--instance", instance.name, "--identity", str(operator.folder), "--reason", "a disk broke"]
    assert main(["reanchor", str(audit), *arguments]) == 0
    started = suite.run("up", "--detach")
    assert started.returncode == 0, started.stdout + started.stderr
    async with connected(suite) as pia:
        report = await pia.governance.verify_audit_trail()
        assert (report.verified, list(report.faults)) == (True, [])
        (event,) = [event async for event in pia.governance.list_audit_events(action="audit.Reanchor")]
    assert (event.actor, event.sequence) == ("spiffe://hedgerow.local/user/operator", 1)
    assert event.resources[0] == f"auditChains/governance-{instance.name}"


async def test_an_operator_accepts_a_loss_with_a_real_signature(suite: RunningSuite, tmp_path: Path) -> None:
    ingestion, operator = await suite.workload("ingestion"), await suite.person("operator")
    stored = [folder.load() for folder in (ingestion, operator)]
    assert stored[0] is not None
    assert stored[1] is not None
    head = pb.ReportAuditHeadRequest(service="ingestion", instance=LOST, sequence=5, chain_hash=bytes(32))
    async with suite.client(tmp_path / "ingestion", stored[0], "governance", DESCRIPTOR) as client:
        await client.call("ReportAuditHead", head)
    request = pb.CreateAuditAnchorRequest(service="ingestion", instance=LOST, sequence=0, reason="a disk broke")
    async with connected(suite) as pia:
        with pytest.raises(PermissionDeniedError):
            await pia.governance._call("CreateAuditAnchor", request)
        async with suite.client(tmp_path / "operator", stored[1], "governance", DESCRIPTOR) as client:
            with pytest.raises(FailedPreconditionError, match="alive"):
                await client.call("CreateAuditAnchor", request)
            anchor = await accepted(client, request)
        report = await pia.governance.verify_audit_trail()
        keys = await pia.secrets.get_verification_keys(f"signingKeys/{ANCHOR_KEYS}")
    assert (report.verified, list(report.anchors)) == (True, [anchor])
    assert open_anchor(anchor.statement, keys.values()).last == 5


async def accepted(client: ServiceClient, request: pb.CreateAuditAnchorRequest) -> pb.AuditAnchor:
    """Asks until the chain counts as silent."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(FailedPreconditionError):
                anchor: pb.AuditAnchor = await client.call("CreateAuditAnchor", request)
                return anchor
            await asyncio.sleep(0.5)
