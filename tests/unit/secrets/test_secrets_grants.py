"""Grants: what the owner signed holds, and nothing else does."""

import asyncio
import base64
import datetime as dt
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgumentError, PermissionDeniedError
from libs.identity.grants import MAX_KEYS, MAX_LIFETIME, claimed_owner, make_grant, owner_of, signing_key, verify_grant

NOW = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = {3: KEY.public_key().public_bytes_raw()}
FEATURES = "spiffe://hedgerow.local/service/features"
LAKE = "keys/ingestion-lake-clients-pii"


def grant(
    keys: list[str] | None = None, expire_time: dt.datetime = NOW + dt.timedelta(minutes=5), version: int = 3
) -> str:
    async def sign(payload: bytes) -> tuple[bytes, int]:
        return KEY.sign(payload), version

    return asyncio.run(make_grant(sign, keys=keys or [LAKE], grantee=FEATURES, expire_time=expire_time))


def refusal(text: str, now: dt.datetime = NOW) -> str:
    with pytest.raises(PermissionDeniedError) as caught:
        verify_grant(PUBLIC, text, now)
    assert caught.value.reason == "GRANT_INVALID"
    return caught.value.message


def test_a_grant_says_who_may_unwrap_what_until_when() -> None:
    result = verify_grant(PUBLIC, grant([LAKE, "keys/ingestion-lake-clients-sensitive"]), NOW)
    assert result.owner == "ingestion"
    assert result.grantee == FEATURES
    assert result.keys == {LAKE, "keys/ingestion-lake-clients-sensitive"}
    assert result.expire_time == NOW + dt.timedelta(minutes=5)
    result.require(LAKE, FEATURES)


def test_it_covers_no_other_key_and_no_other_principal() -> None:
    result = verify_grant(PUBLIC, grant(), NOW)
    with pytest.raises(PermissionDeniedError, match="another principal"):
        result.require(LAKE, "spiffe://hedgerow.local/service/training")
    with pytest.raises(PermissionDeniedError, match="does not cover"):
        result.require("keys/ingestion-lake-clients", FEATURES)


def test_it_expires() -> None:
    assert "expired" in refusal(grant(), NOW + dt.timedelta(minutes=5))


def test_it_never_lasts_long() -> None:
    assert "longer" in refusal(grant(expire_time=NOW + MAX_LIFETIME + dt.timedelta(seconds=1)))


def test_an_unknown_key_version_is_refused() -> None:
    assert "unknown key" in refusal(grant(version=4))


def test_a_signature_over_the_bare_payload_is_no_grant() -> None:
    payload, version, _ = grant().split(".")
    signature = KEY.sign(base64.urlsafe_b64decode(payload + "=="))
    forged = f"{payload}.{version}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"
    assert "not signed" in refusal(forged)


@given(st.data())
def test_a_changed_character_is_refused(data: st.DataObject) -> None:
    text = grant()
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("abcXYZ019-_.").filter(lambda c: c != text[at]))
    changed = text[:at] + other + text[at + 1 :]
    # The last base64 character of a part can carry unused bits: then the bytes are the same, and so is the grant.
    if not same_bytes(text, changed):
        refusal(changed)


def same_bytes(one: str, other: str) -> bool:
    def parts(text: str) -> list[bytes]:
        return [base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in text.split(".")[::2]]

    try:
        return one.split(".")[1] == other.split(".")[1] and parts(one) == parts(other)
    except (ValueError, IndexError):
        return False


@given(st.text(max_size=60))
def test_no_text_breaks_the_parser(text: str) -> None:
    refusal(text)


@pytest.mark.parametrize(
    "content",
    [
        [],
        {},
        {"keys": [], "grantee": FEATURES, "expires": 1},
        {"keys": ["keys/ingestion-a", "keys/features-b"], "grantee": FEATURES, "expires": 1},
        {"keys": ["signingKeys/ingestion-a"], "grantee": FEATURES, "expires": 1},
        {"keys": ["keys/ingestion"], "grantee": FEATURES, "expires": 1},
        {"keys": [LAKE], "grantee": FEATURES, "expires": "soon"},
        {"keys": [LAKE], "grantee": FEATURES, "expires": 1e300},
        {"keys": [f"keys/ingestion-{n}" for n in range(MAX_KEYS + 1)], "grantee": FEATURES, "expires": 1},
    ],
)
def test_wrong_content_is_refused_even_when_signed(content: object) -> None:
    payload = json.dumps(content).encode()
    signature = KEY.sign(b"hedgerow-grant-v1\n" + payload)
    encoded = [base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (payload, signature)]
    refusal(f"{encoded[0]}.3.{encoded[1]}")


@pytest.mark.parametrize(
    "keys", [["keys/ingestion-a", "keys/features-b"], ["keys/nothing"], ["signingKeys/ingestion-a"]]
)
def test_a_grant_is_made_for_keys_of_one_owner(keys: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        grant(keys)
    assert list(caught.value.fields) == ["keys"]


def test_the_owner_is_known_before_verification() -> None:
    assert claimed_owner(grant()) == "ingestion"
    assert signing_key("ingestion") == "signingKeys/ingestion-grants"


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("keys/features-sql", "features"),
        ("signingKeys/governance-policy", "governance"),
        ("keys/features", ""),
        ("keys/-x", ""),
        ("keys/features-", ""),
        ("features-x", ""),
        ("", ""),
    ],
)
def test_owner(name: str, owner: str) -> None:
    assert owner_of(name) == owner


@pytest.mark.parametrize("version", ["1" * 5000, "9" * 10, "\u0663", "-3", "+3", "3.0", ""])
def test_a_version_that_is_no_small_number_is_malformed(version: str) -> None:
    payload, _, signature = grant().split(".")
    assert "malformed" in refusal(f"{payload}.{version}.{signature}")
