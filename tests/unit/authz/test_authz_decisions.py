"""What the project's own policies say of who may do what."""

from __future__ import annotations

import base64
import json

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hedgerow.errors import DataLossError
from libs.authz import Authorizer, Resource, ResourceAttributes, compile_bundle, encode_bundle, verify_envelope
from tests.support.authority import service_id, user_id
from tests.support.serving import project_bundle

CREDIT = ResourceAttributes(frozenset({"credit_risk"}))
ONLINE = Resource("FeatureService", "featureServices/credit")


@pytest.fixture(scope="module")
def authorizer() -> Authorizer:
    return Authorizer(compile_bundle(project_bundle()))


@pytest.mark.parametrize(
    ("principal", "purpose", "delegated", "permitted", "about_purpose"),
    [
        (user_id("creditapp"), "credit_risk", False, True, False),
        (user_id("creditapp"), "", False, False, True),
        (user_id("creditapp"), "marketing", False, False, True),
        (user_id("mia"), "marketing", False, False, True),
        (user_id("mia"), "credit_risk", False, False, True),
        (service_id("inference"), "credit_risk", False, False, False),
        (service_id("inference"), "credit_risk", True, True, False),
        (service_id("training"), "credit_risk", True, False, False),
        (user_id("operator"), "credit_risk", False, False, True),
        (user_id("stranger"), "credit_risk", False, False, False),
        ("not a spiffe id", "credit_risk", False, False, False),
    ],
)
def test_online_features_are_bound_to_purpose_and_principal(
    authorizer: Authorizer, principal: str, purpose: str, delegated: bool, permitted: bool, about_purpose: bool
) -> None:
    action = "features.GetOnlineFeatures"
    for _ in range(2):  # the second comes from the cache
        decision = authorizer.decide(principal, action, ONLINE, CREDIT, purpose=purpose, delegated=delegated)
        assert (decision.permitted, decision.about_purpose) == (permitted, about_purpose)


@pytest.mark.parametrize(
    ("principal", "action", "owner", "granted", "permitted"),
    [
        (service_id("ingestion"), "UnwrapKey", "ingestion", False, True),
        (service_id("features"), "UnwrapKey", "ingestion", False, False),
        (service_id("features"), "UnwrapKey", "ingestion", True, True),
        (service_id("features"), "WrapKey", "ingestion", True, False),
        (user_id("operator"), "UnwrapKey", "ingestion", True, False),
        (user_id("ben"), "UnwrapKey", "ingestion", True, False),
    ],
)
def test_keys_are_for_their_owner_or_a_grant(
    authorizer: Authorizer, principal: str, action: str, owner: str, granted: bool, permitted: bool
) -> None:
    key, attributes = Resource("Key", "keys/ingestion-lake"), ResourceAttributes(owner=owner)
    decision = authorizer.decide(principal, f"secrets.{action}", key, attributes, granted=granted)
    assert decision.permitted is permitted


def test_a_new_bundle_forgets_cached_decisions() -> None:
    authorizer = Authorizer(compile_bundle(project_bundle()))
    ask = {"purpose": "credit_risk"}
    assert authorizer.decide(user_id("creditapp"), "features.GetOnlineFeatures", ONLINE, CREDIT, **ask).permitted
    content = json.loads(project_bundle())
    del content["principals"][user_id("creditapp")]
    authorizer.replace(compile_bundle(json.dumps(content | {"version": 2}).encode()))
    decision = authorizer.decide(user_id("creditapp"), "features.GetOnlineFeatures", ONLINE, CREDIT, **ask)
    assert (decision.permitted, decision.version) == (False, 2)


def test_a_bundle_with_one_changed_byte_is_refused() -> None:
    key = Ed25519PrivateKey.generate()
    public = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    content = project_bundle()

    def envelope(body: bytes, version: int = 1) -> dict[str, object]:
        signature = base64.b64encode(key.sign(content)).decode()
        return {"content": base64.b64encode(body).decode(), "signature": signature, "key_version": version}

    assert verify_envelope(envelope(content), {1: public}) == content
    changed = bytearray(content)
    changed[len(changed) // 2] ^= 1
    with pytest.raises(DataLossError):
        verify_envelope(envelope(bytes(changed)), {1: public})
    with pytest.raises(DataLossError):
        verify_envelope(envelope(content, 2), {1: public})


def test_a_policy_that_fails_permits_nothing() -> None:
    """Cedar passes over a failing policy; over a forbid it must not."""
    policies = """
        @id("all") permit (principal, action, resource);
        @id("guard") forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };
    """
    ana = user_id("ana")
    bundle = encode_bundle(1, policies, {ana: {"roles": ["data-engineer"], "purposes": []}})
    dataset = Resource("Dataset", "datasets/clients")
    decision = Authorizer(compile_bundle(bundle)).decide(ana, "ingestion.GetDataset", dataset, ResourceAttributes())
    assert not decision.permitted
