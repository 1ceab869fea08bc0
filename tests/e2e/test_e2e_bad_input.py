"""Bad input at every RPC gets its exact code and reason, and the server goes on.

Each case is made with an identity that has the right, so that what refuses is the judgement of the input.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pyarrow as pa
import pytest
import pytest_asyncio
from tritonclient.grpc import service_pb2 as oip

from hedgerow.errors import HedgerowError, InvalidArgumentError
from hedgerow.ingestion.v1 import ingestion_pb2
from tests.e2e.calling import OWN, RPCS, Callers, Rpc, refusal, send
from tests.e2e.entries import ENTRIES
from tests.support import gym as app
from tests.support.gym import Gym
from tests.support.suite import RunningSuite

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOT_A_MESSAGE = b"\xff\xff\xff\xff"
HARD_LIMIT = 64 * 1024 * 1024
OWN_RPCS = [rpc for rpc in RPCS if rpc.is_own]
MALFORMED = [(rpc, index) for rpc in RPCS for index in range(len(ENTRIES[rpc.key].malformed))]


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def steady(whole_suite: RunningSuite, gym: Gym) -> AsyncIterator[None]:
    """No service ends over anything in this module."""
    before = whole_suite.restarts()
    yield
    assert whole_suite.restarts() == before


async def answer_to(callers: Callers, rpc: Rpc, *raws: bytes, **how: Any) -> str:
    """Return code and reason of a call as the RPC's entry says who and why."""
    entry = ENTRIES[rpc.key]
    return await refusal(
        await callers.channel(entry.who, rpc.port), rpc.method, raws, **{"purpose": entry.purpose, **how}
    )


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if ENTRIES[rpc.key].answer], ids=str)
async def test_what_does_not_exist(callers: Callers, rpc: Rpc) -> None:
    entry = ENTRIES[rpc.key]
    assert await answer_to(callers, rpc, entry.request.SerializeToString()) == entry.answer


@pytest.mark.parametrize(("rpc", "index"), MALFORMED, ids=[f"{rpc}-{index}" for rpc, index in MALFORMED])
async def test_a_fault_in_a_field_names_the_field(callers: Callers, rpc: Rpc, index: int) -> None:
    entry = ENTRIES[rpc.key]
    request, field = entry.malformed[index]
    with pytest.raises(InvalidArgumentError) as refused:
        await send(
            await callers.channel(entry.who, rpc.port), rpc.method, [request.SerializeToString()], purpose=entry.purpose
        )
    assert refused.value.reason == "FIELD_INVALID"
    assert field in refused.value.fields
    assert all(refused.value.fields.values())


@pytest.mark.parametrize("rpc", RPCS, ids=str)
async def test_bytes_that_are_no_message(callers: Callers, rpc: Rpc) -> None:
    assert await answer_to(callers, rpc, NOT_A_MESSAGE) == "INVALID_ARGUMENT MESSAGE_MALFORMED"


@pytest.mark.parametrize("rpc", OWN_RPCS, ids=str)
async def test_a_call_without_a_deadline(callers: Callers, rpc: Rpc) -> None:
    raw = ENTRIES[rpc.key].request.SerializeToString()
    assert await answer_to(callers, rpc, raw, timeout=None) == "INVALID_ARGUMENT DEADLINE_REQUIRED"


@pytest.mark.parametrize("rpc", RPCS, ids=str)
async def test_a_message_over_the_limit(callers: Callers, rpc: Rpc) -> None:
    limit = ENTRIES[rpc.key].limit
    assert await answer_to(callers, rpc, bytes(limit + 1)) == "RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE"
    # One byte less is read: zeros are no message.
    assert await answer_to(callers, rpc, bytes(limit)) == "INVALID_ARGUMENT MESSAGE_MALFORMED"


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if ENTRIES[rpc.key].used is not None], ids=str)
@pytest.mark.parametrize("purpose", ["", "marketing", "no such purpose"])
async def test_data_for_a_wrong_purpose(callers: Callers, rpc: Rpc, purpose: str) -> None:
    used = ENTRIES[rpc.key].used
    assert used is not None
    answer = await answer_to(callers, rpc, used.SerializeToString(), purpose=purpose)
    assert answer == "PERMISSION_DENIED PURPOSE_NOT_PERMITTED"


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc.method.client_streaming], ids=str)
async def test_a_stream_without_a_message(callers: Callers, rpc: Rpc) -> None:
    assert await answer_to(callers, rpc) == "INVALID_ARGUMENT MESSAGE_MALFORMED"


async def test_policies_that_do_not_hold(whole_suite: RunningSuite) -> None:
    operator = await whole_suite.connect("operator")
    try:
        current = await operator.governance.get_policy_bundle()
        for policies in (
            "no Cedar",
            "permit (principal, action, resource);",
            '@id("x") permit (principal, action, resource) when { resource.colour };',
        ):
            with pytest.raises(InvalidArgumentError) as refused:
                await operator.governance.create_policy_bundle(policies, "{}", current.etag)
            assert set(refused.value.fields) == {"policies"}
        assert await operator.governance.get_policy_bundle() == current
    finally:
        await operator.close()


# ---- Arrow and tensors


def ipc(table: pa.Table, **options: Any) -> bytes:
    """Return a table as an Arrow stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def bad_arrow() -> dict[str, bytes]:
    """Return Arrow bytes that an append must refuse, by what is wrong with them."""
    good = app.visits().slice(0, 10)
    whole = ipc(good)
    changed = bytearray(whole)
    changed[8:16] = b"\xff" * 8
    return {
        "no_arrow": b"these are no record batches",
        "cut_off": whole[: len(whole) // 2],
        "changed": bytes(changed),
        "more_behind": whole + b"x",
        "another_type": ipc(good.set_column(3, "hours", good["hours"].cast(pa.string()))),
        "a_column_missing": ipc(good.drop_columns(["missed"])),
        "a_column_too_many": ipc(good.append_column("extra", good["missed"])),
        "compressed": ipc(good, compression="zstd"),
        "times_without_zone": ipc(good.set_column(1, "month_end", good["month_end"].cast(pa.timestamp("us")))),
    }


BAD_ARROW = bad_arrow()


@pytest.mark.parametrize("fault", BAD_ARROW)
async def test_arrow_that_an_append_must_refuse(callers: Callers, whole_suite: RunningSuite, fault: str) -> None:
    (rpc,) = (rpc for rpc in RPCS if rpc.action == "ingestion.AppendRecords")
    ana = await whole_suite.connect("ana")
    try:
        before = await ana.ingestion.get_dataset(app.VISITS)
        first = ingestion_pb2.AppendRecordsRequest(
            dataset=app.VISITS, request_id=str(uuid.uuid4()), arrow_ipc=ipc(app.visits().slice(0, 10))
        )
        second = ingestion_pb2.AppendRecordsRequest(arrow_ipc=BAD_ARROW[fault])
        answer = await answer_to(callers, rpc, first.SerializeToString(), second.SerializeToString())
        assert answer == "INVALID_ARGUMENT ARROW_INVALID"
        # All or nothing: the good message before it left nothing behind.
        assert await ana.ingestion.get_dataset(app.VISITS) == before
    finally:
        await ana.close()


def tensor(**changes: Any) -> oip.ModelInferRequest:
    """Return a request for two rows, with changes to its one input."""
    request = oip.ModelInferRequest(model_name=app.DEPLOYMENT.partition("/")[2])
    fields = {"name": "features", "datatype": "FP64", "shape": [2, 4], **changes}
    request.inputs.add(**fields)
    request.raw_input_contents.append(bytes(64))
    return request


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "others"},
        {"datatype": "FP32"},
        {"datatype": "BYTES"},
        {"shape": [2, 5]},
        {"shape": [3, 4]},
        {"shape": [-1, 4]},
        {"shape": [2**40, 4]},
    ],
    ids=str,
)
async def test_tensors_that_do_not_fit(callers: Callers, changes: dict[str, Any]) -> None:
    (rpc,) = (rpc for rpc in RPCS if rpc.action == "inference.ModelInfer")
    assert await answer_to(callers, rpc, tensor().SerializeToString()) == "OK"
    raw = tensor(**changes).SerializeToString()
    assert await answer_to(callers, rpc, raw) == "INVALID_ARGUMENT TENSOR_INVALID"


# ---- afterwards


@pytest.mark.parametrize("port", sorted(OWN))
async def test_after_all_of_it_a_good_call_is_answered(callers: Callers, port: str) -> None:
    """Whatever ran before: a bomb of each kind, and then a good call on the same connection."""
    mine = [rpc for rpc in RPCS if rpc.port == port]
    for rpc in mine:
        await answer_to(callers, rpc, NOT_A_MESSAGE)
    channel = await callers.channel("ana", port)
    # More than gRPC itself takes; what it says is RESOURCE_EXHAUSTED too.
    with pytest.raises(HedgerowError) as refused:
        await send(channel, mine[0].method, [bytes(HARD_LIMIT + 1)])
    assert refused.value.code_name == "RESOURCE_EXHAUSTED"
    (check,) = (rpc for rpc in mine if rpc.action == "health.Check")
    assert await refusal(channel, check.method, [b""]) == "OK"
