"""What governance asks of other services, in its own terms."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from hedgerow.client import ServiceClient
from hedgerow.errors import NotFoundError
from libs.runtime import Secrets
from services.governance.erasure import ErasureRequest, StoreErasure
from services.governance.erasure_runner import Erase
from services.governance.policy import Sign

PURPOSE = "erasure"
KEY_SECONDS = 3600.0
FRESH_SECONDS = 5.0


def eraser(client: ServiceClient, make_request: Callable[..., Any], seconds: float) -> Erase:
    """Return the part of an erasure that a service does.

    Args:
        client: of the service.
        make_request: its class ``EraseSubjectRequest``.
        seconds: deadline.
    """

    async def erase(request: ErasureRequest) -> Sequence[StoreErasure]:
        message = make_request(domain=request.domain, pseudonym=request.subject_hash, erasure_request=request.name)
        answer = await client.call("EraseSubject", message, timeout=seconds, purpose=PURPOSE)
        return [_store(item) for item in answer.stores]

    return erase


def _store(item: Any) -> StoreErasure:
    return StoreErasure(
        service=item.service,
        store=item.store,
        objects_searched=item.objects_searched,
        objects_rewritten=item.objects_rewritten,
        objects_destroyed=item.objects_destroyed,
        rows_erased=item.rows_erased,
        remaining_hits=item.remaining_hits,
        error=item.error,
    )


def signer(secrets: Secrets, key: str) -> Sign:
    """Return what signs with one of governance's own keys, such as ``signingKeys/governance-receipts``."""

    async def sign(payload: bytes) -> tuple[bytes, int]:
        return await secrets.sign(key, payload)

    return sign


class AuditKeys:
    """The public audit keys of the services, remembered: each question is an event, and events make segments."""

    def __init__(self, secrets: Secrets, clock: Callable[[], float] = time.monotonic) -> None:
        self._secrets = secrets
        self._clock = clock
        self._known: dict[str, tuple[float, list[bytes]]] = {}

    async def __call__(self, service: str, *, fresh: bool = False) -> list[bytes]:
        """Return every version of a service's key, none when there is no such key. Raises UnavailableError."""
        asked, keys = self._known.get(service, (-KEY_SECONDS, []))
        age = self._clock() - asked
        if age < FRESH_SECONDS or (keys and not fresh and age < KEY_SECONDS):
            return keys
        try:
            keys = list((await self._secrets.verification_keys(f"signingKeys/{service}-audit")).values())
        except NotFoundError:
            return []
        self._known[service] = (self._clock(), keys)
        return keys
