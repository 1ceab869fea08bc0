"""Policy bundles on a real database, with the project's own policies."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from hedgerow.errors import AbortedError, DataLossError, InvalidArgumentError, NotFoundError
from libs.authz import compile_bundle, encode_bundle
from libs.sql import Database
from services.governance.bundle import PolicyBundle
from services.governance.policy import PolicyAuthority
from services.governance.store import PolicyStore
from tests.support.governance import SIGNING_KEY, database, sign

POLICY = '@id("open")\npermit (principal, action in Hedgerow::Action::"open", resource);'
PRINCIPALS = '{"spiffe://hedgerow.local/user/ana":{"roles":["data-engineer"],"purposes":["credit_risk"]}}'
KEYS = {1: SIGNING_KEY.public_key().public_bytes_raw()}


def envelope(version: int) -> dict[str, Any]:
    content = encode_bundle(version, POLICY, json.loads(PRINCIPALS))
    return {
        "content": base64.b64encode(content).decode(),
        "signature": base64.b64encode(SIGNING_KEY.sign(content)).decode(),
        "key_version": 1,
    }


class InForce:
    """Remembers what was applied."""

    def __init__(self) -> None:
        self.versions: list[int] = []

    async def __call__(self, bundle: PolicyBundle) -> None:
        self.versions.append(bundle.version)


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Database]:
    with database(tmp_path) as made:
        yield made


@pytest.fixture
async def authority(opened: Database) -> PolicyAuthority:
    made = PolicyAuthority(PolicyStore(opened), sign, InForce())
    await made.start(envelope(1), KEYS)
    return made


async def test_the_first_start_takes_the_given_bundle_over(opened: Database) -> None:
    applied = InForce()
    authority = PolicyAuthority(PolicyStore(opened), sign, applied)
    await authority.start(envelope(1), KEYS)
    assert (authority.current().version, applied.versions) == (1, [1])
    again = PolicyAuthority(PolicyStore(opened), sign, applied)
    await again.start(envelope(1), KEYS)
    assert again.current() == authority.current()
    await again.start(envelope(4), KEYS)
    assert again.current().version == 4


async def test_an_older_given_bundle_does_not_replace_a_newer(opened: Database, authority: PolicyAuthority) -> None:
    published = await authority.publish(POLICY, PRINCIPALS, authority.current().etag)
    again = PolicyAuthority(PolicyStore(opened), sign, InForce())
    await again.start(envelope(1), KEYS)
    assert again.current() == published


async def test_a_given_bundle_must_be_signed(opened: Database) -> None:
    forged = envelope(1) | {"signature": base64.b64encode(bytes(64)).decode()}
    with pytest.raises(DataLossError):
        await PolicyAuthority(PolicyStore(opened), sign, InForce()).start(forged, KEYS)
    with pytest.raises(NotFoundError):
        await PolicyAuthority(PolicyStore(opened), sign, InForce()).start(None, KEYS)


async def test_a_published_bundle_is_signed_canonical_and_kept(opened: Database, authority: PolicyAuthority) -> None:
    bundle = await authority.publish(POLICY, PRINCIPALS, authority.current().etag)
    SIGNING_KEY.public_key().verify(bundle.signature, bundle.content)
    assert bundle.content == encode_bundle(2, POLICY, json.loads(PRINCIPALS))
    assert compile_bundle(bundle.content).version == 2
    assert PolicyStore(opened).latest() == bundle == authority.current()


async def test_two_authors_cannot_overwrite_each_other(authority: PolicyAuthority) -> None:
    seen = authority.current().etag
    answers = await asyncio.gather(
        *(authority.publish(POLICY, PRINCIPALS, seen) for _ in range(3)), return_exceptions=True
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["AbortedError", "AbortedError", "PolicyBundle"]
    assert authority.current().version == 2
    with pytest.raises(AbortedError) as caught:
        await authority.publish(POLICY, PRINCIPALS, "")
    assert caught.value.metadata == {"etag": authority.current().etag}


@pytest.mark.parametrize(
    ("policies", "principals"),
    [
        ("permit (principal, action, resource);", PRINCIPALS),
        ("nonsense", PRINCIPALS),
        ('@id("x")\npermit (principal, action == Hedgerow::Action::"no.Such", resource);', PRINCIPALS),
        (POLICY, "[]"),
        (POLICY, "{"),
        (POLICY, "[" * 100_000),
        (POLICY, '{"ana":{}}'),
        (POLICY, '{"spiffe://hedgerow.local/user/ana":{"rights":[]}}'),
        (POLICY + " " * 1024 * 1024, PRINCIPALS),
    ],
)
async def test_a_bundle_that_does_not_fit_is_never_signed(
    authority: PolicyAuthority, policies: str, principals: str
) -> None:
    before = authority.current()
    with pytest.raises(InvalidArgumentError) as caught:
        await authority.publish(policies, principals, before.etag)
    assert caught.value.fields
    assert authority.current() == before


async def test_watchers_get_the_current_bundle_and_each_new_one(authority: PolicyAuthority) -> None:
    watched = authority.watch()
    assert (await anext(watched)).version == 1
    following = asyncio.ensure_future(anext(watched))
    await asyncio.sleep(0)
    bundle = await authority.publish(POLICY, PRINCIPALS, authority.current().etag)
    async with asyncio.timeout(10):
        assert await following == bundle
    await watched.aclose()  # type: ignore[attr-defined]
