"""Who may accept events as lost: operators, and nobody else."""

import json

import pytest

from libs.authz import Authorizer, Resource, ResourceAttributes, compile_bundle
from tests.support.serving import POLICIES, project_bundle

TRAIL = Resource("AuditTrail", "auditTrail")
PRINCIPALS = json.loads((POLICIES / "principals.json").read_text())


@pytest.mark.parametrize("principal", [*PRINCIPALS, "spiffe://hedgerow.local/user/stranger"])
@pytest.mark.parametrize("purpose", ["", "operations"])
def test_only_operators_accept_losses(principal: str, purpose: str) -> None:
    authorizer = Authorizer(compile_bundle(project_bundle()))
    decision = authorizer.decide(
        principal, "governance.CreateAuditAnchor", TRAIL, ResourceAttributes(), purpose=purpose
    )
    assert decision.permitted is ("admin" in PRINCIPALS.get(principal, {"roles": []})["roles"])
