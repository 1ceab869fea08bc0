"""What a served call adds to the metrics, whatever its end."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hedgerow.errors import CallCancelledError, DeadlineExceededError, HedgerowError
from libs.rpc.rate_limit import RateLimiter
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import Served, serving

ECHO = "/hedgerow.testing.v1.EchoService/Echo"
CALLERS = 40
PATIENCE_SECONDS = 60.0
LONG = BytesValue(value=b"600000")


@pytest.fixture(autouse=True, params=["aio", "lane"])
def transport(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.serving.TRANSPORT", request.param)


async def test_calls_failures_and_queue_delay_are_counted(tmp_path: Path) -> None:
    async with serving(tmp_path, [echo_service(Echo())], limiter=RateLimiter(0.001, 4)) as served:
        ana = served.client(served.authority.user("ana"), DESCRIPTOR)
        mia = served.client(served.authority.user("nobody"), DESCRIPTOR)
        for _ in range(3):
            await ana.call("Echo", BytesValue(value=b"1"), timeout=10)
        for client, method in ((ana, "Fail"), (ana, "Echo"), (mia, "Echo")):
            with pytest.raises(HedgerowError):
                await client.call(method, BytesValue(value=b"1"), timeout=10)
        value = served.registry.get_sample_value
        assert value("hedgerow_rpc_handled_total", {"method": ECHO, "code": "OK"}) == 3
        assert value("hedgerow_rpc_handled_total", {"method": ECHO, "code": "RESOURCE_EXHAUSTED"}) == 1
        failures = {reason: value("hedgerow_rpc_failures_total", {"reason": reason}) for reason in (
            "STATE_CONFLICT", "RATE_LIMITED", "POLICY_DENIED", "CERTIFICATE_REVOKED",
        )}  # fmt: skip
        assert failures == {"STATE_CONFLICT": 1, "RATE_LIMITED": 1, "POLICY_DENIED": 1, "CERTIFICATE_REVOKED": 0}
        # Those that were refused had no handler to wait for.
        assert value("hedgerow_rpc_queue_seconds_count") == 4
        assert value("hedgerow_rpc_seconds_count", {"method": ECHO}) == 5
        assert value("hedgerow_rpc_capacity") == 1024
        assert value("hedgerow_rpc_in_flight") == 0


async def end_of(served: Served, method: str) -> str:
    """Return the code that the one call of a method was counted with, once it was."""
    labels = {"method": f"/hedgerow.testing.v1.EchoService/{method}"}
    codes = ("OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "INTERNAL")
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            for code in codes:
                if served.registry.get_sample_value("hedgerow_rpc_handled_total", labels | {"code": code}):
                    return code
            await asyncio.sleep(0.01)


async def test_a_call_that_its_deadline_ends_is_counted_and_audited_as_its_caller_sees_it(tmp_path: Path) -> None:
    async with serving(tmp_path, [echo_service(Echo())]) as served:
        client = served.client(served.authority.user("ana"), DESCRIPTOR)
        await client.call("Echo", BytesValue(), timeout=PATIENCE_SECONDS)  # else the connection may take all the time

        async def stream() -> None:
            async for _ in client.stream("Down", LONG, timeout=6):
                pass

        ends = await asyncio.gather(client.call("Sleep", LONG, timeout=6), stream(), return_exceptions=True)
        assert [type(end) for end in ends] == [DeadlineExceededError] * 2
        assert [await end_of(served, method) for method in ("Sleep", "Down")] == ["DEADLINE_EXCEEDED"] * 2
        reasons = served.registry.get_sample_value("hedgerow_rpc_failures_total", {"reason": "DEADLINE_EXCEEDED"})
        assert reasons == 2
        assert {event.code for event in served.events} == {"OK", "DEADLINE_EXCEEDED"}  # that of the stream comes first


async def test_a_call_that_its_caller_ends_is_counted_as_cancelled(tmp_path: Path) -> None:
    echo = Echo()
    async with serving(tmp_path, [echo_service(echo)]) as served:
        client = served.client(served.authority.user("ana"), DESCRIPTOR)
        call = asyncio.create_task(client.call("Sleep", LONG, timeout=600))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not echo.calls:
                await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises((asyncio.CancelledError, CallCancelledError)):
            await call
        assert await end_of(served, "Sleep") == "CANCELLED"
        assert not served.registry.get_sample_value("hedgerow_rpc_failures_total", {"reason": "DEADLINE_EXCEEDED"})


async def test_what_a_transport_refuses_before_the_chain_is_counted(tmp_path: Path) -> None:
    async with serving(tmp_path, [echo_service(Echo())]) as served:
        served.chain.shed()
        assert served.registry.get_sample_value("hedgerow_rpc_failures_total", {"reason": "OVERLOADED"}) == 1


async def test_what_callers_name_is_no_label(tmp_path: Path) -> None:
    """Field case MON-03, over the wire: methods, callers, purposes and request ids made up by callers."""
    async with serving(tmp_path, [echo_service(Echo())]) as served:

        async def call(number: int) -> None:
            client = served.client(served.authority.user(f"caller-{number % 10}"), DESCRIPTOR)
            names = {"purpose": f"purpose-{number}", "request_id": f"request-{number}"}
            with pytest.raises(HedgerowError):
                await client.call("Echo", BytesValue(value=b"1"), timeout=20, **names)

        await call(0)
        before = _series(served.registry)
        await asyncio.gather(*(call(number) for number in range(1, CALLERS)))
        assert _series(served.registry) == before
        assert served.registry.get_sample_value("hedgerow_rpc_failures_total", {"reason": "POLICY_DENIED"}) == CALLERS


def _series(registry: object) -> set[str]:
    families = text_string_to_metric_families(generate_latest(registry).decode())  # type: ignore[arg-type]
    return {f"{sample.name}{sorted(sample.labels.items())}" for family in families for sample in family.samples}
