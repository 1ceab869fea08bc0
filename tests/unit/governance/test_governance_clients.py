"""What governance asks of other services."""

from typing import Any, cast

import pytest

from hedgerow.errors import NotFoundError, UnavailableError
from hedgerow.governance.v1 import governance_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from services.governance.clients import FRESH_SECONDS, KEY_SECONDS, AuditKeys, eraser
from services.governance.erasure import ErasureRequest, StoreErasure


class Secrets:
    """Answers for one key, and counts."""

    def __init__(self) -> None:
        self.keys: dict[int, bytes] = {1: b"one"}
        self.fault: Exception | None = None
        self.asked: list[str] = []

    async def verification_keys(self, key: str) -> dict[int, bytes]:
        self.asked.append(key)
        if self.fault is not None:
            raise self.fault
        return self.keys


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def test_keys_are_remembered_until_they_do_not_do() -> None:
    secrets, clock = Secrets(), Clock()
    keys = AuditKeys(cast(Any, secrets), clock)
    assert await keys("ingestion") == [b"one"]
    secrets.keys = {1: b"one", 2: b"two"}
    clock.now += KEY_SECONDS - 1
    assert await keys("ingestion") == [b"one"]
    assert await keys("ingestion", fresh=True) == [b"one", b"two"]
    assert secrets.asked == ["signingKeys/ingestion-audit"] * 2


async def test_fresh_keys_are_not_asked_for_without_end() -> None:
    secrets, clock = Secrets(), Clock()
    keys = AuditKeys(cast(Any, secrets), clock)
    for _ in range(5):
        await keys("ingestion", fresh=True)
    assert len(secrets.asked) == 1
    clock.now += FRESH_SECONDS
    await keys("ingestion", fresh=True)
    assert len(secrets.asked) == 2


async def test_a_key_that_is_not_there_yet_is_asked_for_again() -> None:
    secrets = Secrets()
    secrets.fault = NotFoundError("no such key")
    keys = AuditKeys(cast(Any, secrets), Clock())
    assert await keys("ingestion") == []
    secrets.fault = None
    assert await keys("ingestion") == [b"one"]
    secrets.fault = UnavailableError("away")
    with pytest.raises(UnavailableError):
        await keys("features")


async def test_a_service_is_asked_to_erase_by_pseudonym_and_purpose() -> None:
    calls: list[tuple[str, Any, dict[str, Any]]] = []

    class Client:
        async def call(self, method: str, request: Any, **context: Any) -> Any:
            calls.append((method, request, context))
            done = governance_pb2.StoreErasure(service="ingestion", store="lake", rows_erased=3, error="X: y")
            return ingestion_pb2.EraseSubjectResponse(stores=[done])

    request = ErasureRequest("ab12", "r", "credit", "0" * 32, 1)
    erase = eraser(cast(Any, Client()), ingestion_pb2.EraseSubjectRequest, 600.0)
    assert await erase(request) == [StoreErasure("ingestion", "lake", rows_erased=3, error="X: y")]
    ((method, message, context),) = calls
    assert method == "EraseSubject"
    assert message == ingestion_pb2.EraseSubjectRequest(
        domain="credit", pseudonym="0" * 32, erasure_request="erasureRequests/ab12"
    )
    assert context == {"timeout": 600.0, "purpose": "erasure"}
