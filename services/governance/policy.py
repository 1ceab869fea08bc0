"""Publishes policy bundles: validated, signed, kept, and pushed to everyone who watches.

Rules: a bundle that does not compile is never signed; versions grow by one; a bundle replaces the one whose etag its
author saw, so that two authors cannot overwrite each other unseen.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from hedgerow.errors import AbortedError, InvalidArgumentError, NotFoundError
from libs.authz import compile_bundle, encode_bundle, verify_envelope
from services.governance.bundle import PolicyBundle
from services.governance.changes import Changes
from services.governance.store import PolicyStore

MAX_POLICY_BYTES = 1024 * 1024

Sign = Callable[[bytes], Awaitable[tuple[bytes, int]]]
"""(payload) -> (signature, key version)."""


class PolicyAuthority:
    """The bundles of the suite."""

    def __init__(self, store: PolicyStore, sign: Sign, apply: Callable[[PolicyBundle], Awaitable[None]]) -> None:
        """Name the parts.

        Args:
            store: keeps every bundle.
            sign: by signingKeys/governance-policy.
            apply: puts a bundle in force in this process.
        """
        self._store = store
        self._sign = sign
        self._apply = apply
        self._changes = Changes()
        self._publishing = asyncio.Lock()
        self._current: PolicyBundle | None = None

    async def start(self, envelope: Mapping[str, Any] | None, keys: Mapping[int, bytes]) -> None:
        """Take up the last bundle, and first the one that the suite was set up with when it is newer.

        Args:
            envelope: ``content`` and ``signature`` in base64 and ``key_version``, or None.
            keys: public keys of signingKeys/governance-policy by version.

        Raises:
            DataLossError: the envelope's signature does not verify.
            InvalidArgumentError: its content is no bundle.
            NotFoundError: there is no bundle at all.
        """
        self._current = await asyncio.to_thread(self._store.latest)
        if envelope is not None:
            given = await asyncio.to_thread(_open_envelope, envelope, keys)
            if self._current is None or given.version > self._current.version:
                await asyncio.to_thread(self._store.add, given)
                self._current = given
        await self._apply(self.current())

    def current(self) -> PolicyBundle:
        """Return the bundle in force.

        Raises:
            NotFoundError: none was published yet.
        """
        if self._current is None:
            raise NotFoundError("there is no policy bundle yet", metadata={"resource": "policyBundle"})
        return self._current

    async def publish(self, policies: str, principals_json: str, etag: str) -> PolicyBundle:
        """Validate, sign, keep and push a new bundle.

        Raises:
            InvalidArgumentError: a policy or principal does not fit the schema.
            AbortedError: ``etag`` is not the current one.
        """
        principals = _parse_principals(policies, principals_json)
        async with self._publishing:
            current = self.current()
            if etag != current.etag:
                raise AbortedError(
                    "the policy bundle was changed since it was read; read it again and retry",
                    metadata={"etag": current.etag},
                )
            version = current.version + 1
            content = encode_bundle(version, policies, principals)
            await asyncio.to_thread(compile_bundle, content)
            signature, key_version = await self._sign(content)
            bundle = PolicyBundle(version, content, signature, key_version, time.time_ns())
            await asyncio.to_thread(self._store.add, bundle)
            await self._apply(bundle)
            self._current = bundle
        self._changes.announce()
        return bundle

    async def watch(self) -> AsyncIterator[PolicyBundle]:
        """Yield the current bundle, then each new one; versions in between may be passed over."""
        sent = 0
        while True:
            changed = self._changes.next()
            bundle = self.current()
            if bundle.version > sent:
                sent = bundle.version
                yield bundle
            else:
                await changed.wait()


def _open_envelope(envelope: Mapping[str, Any], keys: Mapping[int, bytes]) -> PolicyBundle:
    content = verify_envelope(envelope, keys)
    version = compile_bundle(content).version
    signature = base64.b64decode(envelope["signature"])
    return PolicyBundle(version, content, signature, int(envelope["key_version"]), time.time_ns())


def _parse_principals(policies: str, principals_json: str) -> dict[str, Any]:
    if len(policies) + len(principals_json) > MAX_POLICY_BYTES:
        raise InvalidArgumentError(
            f"policies and principals may have {MAX_POLICY_BYTES} characters together",
            fields={"policies": f"expected at most {MAX_POLICY_BYTES} characters with principals_json"},
        )
    try:
        principals = json.loads(principals_json)
    except (ValueError, RecursionError) as error:
        raise _no_object() from error
    if not isinstance(principals, dict):
        raise _no_object()
    return principals


def _no_object() -> InvalidArgumentError:
    what = 'expected a JSON object from SPIFFE ID to {"roles": [...], "purposes": [...]}'
    return InvalidArgumentError(f"principals_json is malformed: {what}", fields={"principals_json": what})
