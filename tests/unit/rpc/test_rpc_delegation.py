"""A token lives no longer than the certificate that proves it, whoever made it."""

from __future__ import annotations

import base64
import datetime as dt
import time

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from hedgerow.errors import UnauthenticatedError
from hedgerow.identity import Identity
from libs.rpc.delegation import CLOCK_SKEW, DelegationSigner, DelegationVerifier
from tests.support.authority import Authority, service_id, user_id

ANA = user_id("ana")
HOUR = 3600.0


def leaf_of(token: str) -> x509.Certificate:
    return x509.load_der_x509_certificate(base64.b64decode(jwt.get_unverified_header(token)["x5c"][0]))


def expiry_of(token: str) -> float:
    return float(jwt.decode(token, options={"verify_signature": False})["exp"])


def test_a_token_ends_with_its_certificate_and_is_handed_out_again_till_then() -> None:
    identity = Authority().service("features", life=dt.timedelta(minutes=5))
    signer = DelegationSigner(lambda: identity)
    token = signer.token(ANA, "", HOUR)
    assert expiry_of(token) == identity.expire_time.timestamp()
    assert signer.token(ANA, "", HOUR) == token
    assert expiry_of(signer.token(ANA, "other", 60.0)) < time.time() + 61


def test_a_new_certificate_signs_new_tokens() -> None:
    authority = Authority()
    identities = [authority.service("features"), authority.service("features")]
    current = identities[0]
    signer = DelegationSigner(lambda: current)
    assert leaf_of(signer.token(ANA, "", 60.0)) == identities[0].certificate
    current = identities[1]
    renewed = signer.token(ANA, "", 60.0)
    assert leaf_of(renewed) == identities[1].certificate
    verifier = DelegationVerifier(lambda: authority.roots_pem)
    assert verifier.verify(renewed, peer=service_id("features"), purpose="") == ANA


def test_a_token_that_claims_to_outlive_its_certificate_ends_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority()
    identity = authority.service("features", life=dt.timedelta(minutes=5))
    token = outliving(identity)
    verifier = DelegationVerifier(lambda: authority.roots_pem)
    peer = service_id("features")
    assert verifier.verify(token, peer=peer, purpose="") == ANA
    end = identity.expire_time.timestamp()
    monkeypatch.setattr("libs.rpc.delegation.time.time", lambda: end + CLOCK_SKEW + 1)
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.verify(token, peer=peer, purpose="")
    assert caught.value.reason == "DELEGATION_INVALID"


def outliving(identity: Identity) -> str:
    """Return a token of an hour, whatever the certificate says."""
    now = int(time.time())
    chain = base64.b64encode(identity.certificate.public_bytes(serialization.Encoding.DER)).decode()
    key = serialization.load_pem_private_key(identity.key_pem, password=None)
    claims = {"sub": ANA, "purpose": "", "iat": now, "exp": now + int(HOUR)}
    return jwt.encode(claims, key, algorithm="ES256", headers={"x5c": [chain]})  # type: ignore[arg-type]
