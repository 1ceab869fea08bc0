"""Every RPC through the SDK, over mutual TLS: reachable, with deadlines, typed errors and bounded retries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor

from hedgerow.errors import DeadlineExceededError, InvalidArgumentError, UnavailableError
from hedgerow.ingestion.v1 import ingestion_pb2
from hedgerow.retry import RetryBudget
from hedgerow.sdk import Hedgerow, SyncHedgerow
from hedgerow.sdk.calls import snake_case
from tests.integration.sdk.mirror import AREAS, Suite, descriptor

METHODS = [(area, method) for area in AREAS for method in descriptor(area).methods]
EVERYTHING = {(method.full_name, "credit_risk") for _, method in METHODS}


def message(method: MethodDescriptor) -> Any:
    return message_factory.GetMessageClass(method.input_type)()


async def three(method: MethodDescriptor) -> AsyncIterator[Any]:
    for _ in range(3):
        yield message(method)


async def call(hedgerow: Hedgerow, area: str, method: MethodDescriptor) -> None:
    answer = message_factory.GetMessageClass(method.output_type)()
    rpc = getattr(getattr(hedgerow.rpcs, area), snake_case(method.name))
    if method.client_streaming:
        assert await rpc(three(method)) == answer
    elif method.server_streaming:
        assert [item async for item in rpc(message(method))] == [answer] * 3
    else:
        assert await rpc(message(method)) == answer


async def test_every_rpc_is_reachable(suite: Suite) -> None:
    async with Hedgerow.connect(suite.identity, suite.addresses, purpose="credit_risk") as hedgerow:
        for area, method in METHODS:
            await call(hedgerow, area, method)
    assert set(suite.mirror.calls) == EVERYTHING
    assert len(suite.mirror.calls) == len(METHODS)


def call_all(suite: Suite) -> None:
    with SyncHedgerow.connect(suite.identity, suite.addresses) as connected:
        hedgerow = connected.for_purpose("credit_risk")
        for area, method in METHODS:
            answer = message_factory.GetMessageClass(method.output_type)()
            rpc = getattr(getattr(hedgerow.rpcs, area), snake_case(method.name))
            if method.client_streaming:
                assert rpc(message(method) for _ in range(3)) == answer
            elif method.server_streaming:
                assert list(rpc(message(method))) == [answer] * 3
            else:
                assert rpc(message(method)) == answer


async def test_every_rpc_is_reachable_without_a_loop(suite: Suite) -> None:
    await asyncio.to_thread(call_all, suite)
    assert set(suite.mirror.calls) == EVERYTHING


GET = ingestion_pb2.GetDatasetRequest(name="datasets/d")
CREATE = ingestion_pb2.CreateDatasetRequest(dataset_id="d")


async def test_a_deadline_is_the_typed_error(suite: Suite) -> None:
    suite.mirror.delay = 60
    async with Hedgerow.connect(suite.identity, suite.addresses) as hedgerow:
        with pytest.raises(DeadlineExceededError):
            await hedgerow.rpcs.ingestion.get_dataset(GET, timeout=0.5)
        with pytest.raises(DeadlineExceededError):
            async for _ in hedgerow.rpcs.governance.export_audit_trail(
                message(descriptor("governance").methods_by_name["ExportAuditTrail"]), timeout=0.5
            ):
                pass


async def test_what_is_safe_is_tried_again_and_what_is_not_fails_at_once(suite: Suite) -> None:
    async with Hedgerow.connect(suite.identity, suite.addresses) as hedgerow:
        suite.mirror.failures = [UnavailableError("away"), UnavailableError("away")]
        await hedgerow.rpcs.ingestion.get_dataset(GET)
        assert len(suite.mirror.calls) == 3
        suite.mirror.calls.clear()
        suite.mirror.failures = [UnavailableError("away")]
        with pytest.raises(UnavailableError):
            await hedgerow.rpcs.ingestion.create_dataset(CREATE)
        assert len(suite.mirror.calls) == 1


async def test_a_refusal_comes_back_with_its_fields_and_is_not_tried_again(suite: Suite) -> None:
    suite.mirror.failures = [InvalidArgumentError("name is wrong", fields={"name": "expected datasets/{dataset}"})]
    async with Hedgerow.connect(suite.identity, suite.addresses) as hedgerow:
        with pytest.raises(InvalidArgumentError) as caught:
            await hedgerow.rpcs.ingestion.get_dataset(GET)
    assert caught.value.fields == {"name": "expected datasets/{dataset}"}
    assert caught.value.reason == "FIELD_INVALID"
    assert len(suite.mirror.calls) == 1


async def test_retries_stop_when_the_budget_is_spent_and_come_back_with_success(suite: Suite) -> None:
    client = suite.servers["ingestion"].client(suite.authority.user("ben"), descriptor("ingestion"))
    client._budget = budget = RetryBudget(max_tokens=4, tokens_per_success=0.5)
    suite.mirror.failures = [UnavailableError("away") for _ in range(100)]
    for _ in range(5):
        with pytest.raises(UnavailableError):
            await client.call("GetDataset", GET)
    # The first attempt may be repeated (3 tokens of 4 are left), the second not; later calls are made once.
    assert len(suite.mirror.calls) == 2 + 4
    assert budget.tokens == 0
    suite.mirror.failures.clear()
    for _ in range(8):
        await client.call("GetDataset", GET)
    assert budget.tokens == 4
    suite.mirror.calls.clear()
    suite.mirror.failures = [UnavailableError("away")]
    await client.call("GetDataset", GET)
    assert len(suite.mirror.calls) == 2


async def test_one_budget_holds_for_all_clients_of_a_connection(suite: Suite) -> None:
    async with Hedgerow.connect(suite.identity, suite.addresses) as hedgerow:
        suite.mirror.failures = [UnavailableError("away")]
        await hedgerow.for_purpose("credit_risk").training.get_training_run("trainingRuns/r")
        assert hedgerow._budgets["training"].tokens < 100
        assert hedgerow._budgets["ingestion"].tokens == 100


async def test_no_pause_goes_beyond_the_deadline_and_hides_why_a_call_failed(suite: Suite) -> None:
    suite.mirror.delay = 1
    suite.mirror.failures = [UnavailableError("draining", retry_after=29.5)]
    async with Hedgerow.connect(suite.identity, suite.addresses) as hedgerow:
        with pytest.raises(UnavailableError, match="draining"):
            await hedgerow.rpcs.ingestion.get_dataset(GET, timeout=30)
    assert len(suite.mirror.calls) == 1


async def test_the_server_says_when_to_try_again(suite: Suite) -> None:
    suite.mirror.failures = [UnavailableError("draining", retry_after=60)]
    async with Hedgerow.connect(suite.identity, suite.addresses) as hedgerow:
        with pytest.raises(UnavailableError, match="draining"):
            await hedgerow.rpcs.ingestion.get_dataset(GET, timeout=20)
    assert len(suite.mirror.calls) == 1
