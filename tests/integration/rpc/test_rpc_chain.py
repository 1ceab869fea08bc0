"""The chain on a real port: identity, deadline, rights, limits, errors, audit, drain."""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from hedgerow.client import CallEnd, ServiceClient
from hedgerow.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    UnavailableError,
    UnimplementedError,
    from_rpc_error,
)
from libs.rpc import Call
from libs.rpc.delegation import DelegationSigner
from libs.rpc.rate_limit import RateLimiter
from libs.rpc.service import Audit
from tests.support.authority import Authority, service_id, user_id
from tests.support.echo import DESCRIPTOR, Echo, echo_service
from tests.support.serving import Served, serving

ANA = "ana"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, [echo_service(Echo())]) as running:
        yield running


def ana(served: Served) -> ServiceClient:
    return served.client(served.authority.user(ANA), DESCRIPTOR)


async def several(*values: bytes) -> AsyncIterator[BytesValue]:
    for value in values:
        yield BytesValue(value=value)


async def test_all_four_kinds_answer(served: Served) -> None:
    client = ana(served)
    assert (await client.call("Echo", BytesValue(value=b"a"))).value == b"a"
    assert [m.value async for m in client.stream("Down", BytesValue(value=b"1"))] == [b"1"] * 10
    assert (await client.send("Up", several(b"a", b"b", b"c"))).value == b"abc"
    bound = served.channels[0].method(
        "stream_stream",
        "/hedgerow.testing.v1.EchoService/Both",
        BytesValue.SerializeToString,
        BytesValue.FromString,
    )
    assert [m.value async for m in bound(several(b"x", b"y"), timeout=5)] == [b"x", b"y"]


async def test_every_call_leaves_an_audit_event_with_the_identity(served: Served) -> None:
    client = ana(served)
    await client.call("Echo", BytesValue(value=b"a"), request_id="r1")
    event = served.events[-1]
    assert (event.actor, event.action, event.decision, event.code, event.request_id) == (
        user_id(ANA),
        "ingestion.GetDataset",
        "permit",
        "OK",
        "r1",
    )
    assert event.resources == ("datasets/echo",)
    assert event.policies == ("data-engineer", "data-engineer-lists")


@pytest.mark.parametrize("kind", ["Echo", "Down", "Up", "Both"])
async def test_a_caller_without_rights_is_refused_on_every_kind_and_audited(served: Served, kind: str) -> None:
    client = served.client(served.authority.user("nobody"), DESCRIPTOR)
    with pytest.raises(PermissionDeniedError) as caught:
        await _any_kind(served, client, kind)
    assert caught.value.reason == "POLICY_DENIED"
    assert caught.value.metadata == {"action": "ingestion.GetDataset", "resource": "datasets/echo"}
    assert (served.events[-1].actor, served.events[-1].decision) == (user_id("nobody"), "deny")


async def _any_kind(served: Served, client: ServiceClient, kind: str) -> None:
    if kind == "Echo":
        await client.call("Echo", BytesValue(value=b"a"))
    elif kind == "Down":
        _ = [m async for m in client.stream("Down", BytesValue(value=b"1"))]
    elif kind == "Up":
        await client.send("Up", several(b"a"))
    else:
        path = "/hedgerow.testing.v1.EchoService/Both"
        bound = served.channels[-1].method("stream_stream", path, BytesValue.SerializeToString, BytesValue.FromString)
        call = bound(several(b"a"), timeout=5)
        end = CallEnd(call)
        try:
            _ = [m async for m in call]
        except grpc.aio.AioRpcError as error:
            raise from_rpc_error(end.of(error)) from None


async def test_a_missing_deadline_is_named(served: Served) -> None:
    ana(served)
    bound = served.channels[0].method(
        "unary_unary", "/hedgerow.testing.v1.EchoService/Echo", BytesValue.SerializeToString, BytesValue.FromString
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bound(BytesValue())
    error = from_rpc_error(caught.value)
    assert isinstance(error, InvalidArgumentError)
    assert error.reason == "DEADLINE_REQUIRED"


async def test_malformed_bytes_and_unknown_methods_are_typed(served: Served) -> None:
    ana(served)
    channel = served.channels[0]
    raw = channel.method("unary_unary", "/hedgerow.testing.v1.EchoService/Echo", None, None)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await raw(b"\xff\xff\xff", timeout=5)
    error = from_rpc_error(caught.value)
    assert (type(error), error.reason) == (InvalidArgumentError, "MESSAGE_MALFORMED")
    for path in ("/hedgerow.testing.v1.EchoService/Nope", "/no.such.Service/Echo"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.method("unary_unary", path, None, None)(b"", timeout=5)
        error = from_rpc_error(caught.value)
        assert (type(error), error.reason) == (UnimplementedError, "METHOD_UNIMPLEMENTED")


async def test_an_oversized_message_is_refused_with_its_limit(served: Served) -> None:
    client = ana(served)
    with pytest.raises(ResourceExhaustedError) as caught:
        await client.call("Echo", BytesValue(value=b"x" * (5 * 1024 * 1024)))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"
    assert (await client.call("Echo", BytesValue(value=b"still up"))).value == b"still up"


async def test_typed_errors_arrive_as_the_same_class_and_bugs_say_nothing(served: Served) -> None:
    client = ana(served)
    with pytest.raises(FailedPreconditionError) as typed:
        await client.call("Fail", BytesValue(value=b"0"))
    assert typed.value.metadata == {"state": "asleep"}
    with pytest.raises(InternalError) as bug:
        await client.call("Fail", BytesValue(value=b"bug"), request_id="r-bug")
    assert bug.value.metadata == {"request_id": "r-bug"}
    assert "secret" not in str(bug.value)


async def test_a_call_past_its_deadline_ends(served: Served) -> None:
    with pytest.raises(DeadlineExceededError):
        await ana(served).call("Sleep", BytesValue(value=b"5000"), timeout=0.2)


class TestIdentity:
    """TLS-08: identity comes from exactly one URI SAN, whatever the kind of call."""

    @pytest.mark.parametrize("kind", ["Echo", "Down", "Up", "Both"])
    @pytest.mark.parametrize("case", ["dns", "cn", "two", "email", "domain"])
    async def test_other_names_are_refused(self, served: Served, case: str, kind: str) -> None:
        authority = served.authority
        identity = {
            "dns": lambda: authority.issue(dns=("ana.hedgerow.local",)),
            "cn": lambda: authority.issue(dns=(), common_name=user_id(ANA)),
            "two": lambda: authority.issue(user_id(ANA), user_id("ben"), dns=()),
            "email": lambda: authority.issue(dns=(), email="ana@hedgerow.local"),
            "domain": lambda: authority.issue("spiffe://elsewhere.local/user/ana", dns=()),
        }[case]()
        with pytest.raises(UnauthenticatedError) as caught:
            await _any_kind(served, served.client(identity, DESCRIPTOR), kind)
        assert caught.value.reason == "IDENTITY_INVALID"
        assert served.events[-1].code == "UNAUTHENTICATED"

    async def test_no_certificate_and_a_foreign_one_never_reach_a_handler(self, served: Served) -> None:
        foreign = Authority("foreign").user(ANA, roots_pem=served.authority.roots_pem)
        with pytest.raises(UnavailableError):
            await served.client(foreign, DESCRIPTOR).call("Sleep", BytesValue(), timeout=2)
        credentials = grpc.ssl_channel_credentials(served.authority.roots_pem)
        options = [("grpc.ssl_target_name_override", "ingestion.hedgerow.local")]
        async with grpc.aio.secure_channel(served.target, credentials, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/hedgerow.testing.v1.EchoService/Echo")(b"", timeout=2)
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not served.events

    async def test_revocation_reaches_a_live_connection(self, served: Served) -> None:
        identity = served.authority.user(ANA)
        client = served.client(identity, DESCRIPTOR)
        await client.call("Echo", BytesValue())
        served.trust.update(1, frozenset({f"{identity.certificate.serial_number:x}"}))
        with pytest.raises(UnauthenticatedError) as caught:
            await client.call("Echo", BytesValue())
        assert caught.value.reason == "CERTIFICATE_REVOKED"

    async def test_expiry_reaches_a_live_connection(self, served: Served) -> None:
        identity = served.authority.user(ANA, life=dt.timedelta(seconds=2))
        client = served.client(identity, DESCRIPTOR)
        await client.call("Echo", BytesValue())
        await asyncio.sleep(2.1)
        with pytest.raises(UnauthenticatedError) as caught:
            await client.call("Echo", BytesValue())
        assert caught.value.reason == "CERTIFICATE_EXPIRED"


class TestDelegation:
    """A service acts for a principal only with a token, and Cedar must permit both."""

    def token(self, served: Served, issuer: str, principal: str, purpose: str = "", lifetime: float = 60) -> str:
        identity = served.authority.service(issuer)
        return DelegationSigner(lambda: identity).token(user_id(principal), purpose, lifetime)

    async def test_both_are_asked(self, served: Served) -> None:
        features = served.client(served.authority.service("features"), DESCRIPTOR)
        await features.call("Echo", BytesValue(), on_behalf_of=self.token(served, "features", "ana"))
        assert (served.events[-1].actor, served.events[-1].on_behalf_of) == (service_id("features"), user_id("ana"))
        with pytest.raises(PermissionDeniedError):
            await features.call("Echo", BytesValue(), on_behalf_of=self.token(served, "features", "mia"))
        inference = served.client(served.authority.service("inference"), DESCRIPTOR)
        with pytest.raises(PermissionDeniedError):
            await inference.call("Echo", BytesValue(), on_behalf_of=self.token(served, "inference", "ana"))

    @pytest.mark.parametrize("case", ["other issuer", "other purpose", "expired", "foreign", "garbage"])
    async def test_a_bad_token_is_refused(self, served: Served, case: str) -> None:
        features = served.client(served.authority.service("features"), DESCRIPTOR)
        stranger = Authority("foreign").service("features")
        token = {
            "other issuer": lambda: self.token(served, "training", "ana"),
            "other purpose": lambda: self.token(served, "features", "ana", "credit_risk"),
            "expired": lambda: self.token(served, "features", "ana", lifetime=-60),
            "foreign": lambda: DelegationSigner(lambda: stranger).token(user_id("ana"), "", 60),
            "garbage": lambda: "abc.def.ghi",
        }[case]()
        with pytest.raises(UnauthenticatedError) as caught:
            await features.call("Echo", BytesValue(), on_behalf_of=token)
        assert caught.value.reason == "DELEGATION_INVALID"


class TestLimits:
    """Every queue and rate has a bound, and says so."""

    async def test_rate(self, tmp_path: Path) -> None:
        async with serving(tmp_path, [echo_service(Echo())], limiter=RateLimiter(0.5, 3)) as served:
            client = ana(served)
            for _ in range(3):
                await client.call("Echo", BytesValue())
            with pytest.raises(ResourceExhaustedError) as caught:
                await client.call("Echo", BytesValue())
            assert caught.value.reason == "RATE_LIMITED"
            assert 0 < (caught.value.retry_after or 0) <= 2
            other = served.client(served.authority.service("features"), DESCRIPTOR)
            await other.call("Echo", BytesValue())

    async def test_calls_in_progress(self, tmp_path: Path) -> None:
        """GRPC-06: over the cap refused at once, and the health check still answers."""
        async with serving(tmp_path, [echo_service(Echo())], max_calls=4) as served:
            client = ana(served)
            results = await asyncio.gather(
                *(client.call("Sleep", BytesValue(value=b"500")) for _ in range(50)),
                _health(served, ""),
                return_exceptions=True,
            )
            refused = [r for r in results if isinstance(r, ResourceExhaustedError)]
            assert {error.reason for error in refused} == {"OVERLOADED"}
            assert len(refused) == 46
            assert results[-1] == health_pb2.HealthCheckResponse.SERVING

    async def test_a_handler_that_calls_its_own_service(self, tmp_path: Path) -> None:
        """GRPC-06: when every place is taken by callers of themselves, the inner calls are refused and nothing waits."""

        class Recursive(Echo):
            client: ServiceClient

            async def sleep(self, request: BytesValue, call: Call) -> BytesValue:
                answer: BytesValue = await self.client.call("Echo", request, timeout=call.time_left())
                return answer

        servicer = Recursive()
        async with serving(tmp_path, [echo_service(servicer)], max_calls=4) as served:
            servicer.client = client = ana(served)
            assert (await client.call("Sleep", BytesValue(value=b"a"), timeout=20)).value == b"a"
            calls = (client.call("Sleep", BytesValue(value=b"a"), timeout=20) for _ in range(40))
            results = await asyncio.gather(*calls, return_exceptions=True)
            for result in results:
                assert isinstance(result, ResourceExhaustedError) or result == BytesValue(value=b"a")
            assert (await client.call("Sleep", BytesValue(value=b"b"), timeout=20)).value == b"b"


async def _health(served: Served, name: str) -> int:
    client = served.client(served.authority.user(ANA), health_pb2.DESCRIPTOR.services_by_name["Health"])
    answer = await client.call("Check", health_pb2.HealthCheckRequest(service=name))
    return int(answer.status)


async def test_health_is_per_service_and_truthful(served: Served) -> None:
    """GRPC-05."""
    name = "hedgerow.testing.v1.EchoService"
    assert await _health(served, name) == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(NotFoundError):
        await _health(served, "nope")
    await served.server.health.set(False, name)
    assert await _health(served, name) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await _health(served, "") == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_watchers_hear_of_the_drain_before_the_port_closes(served: Served) -> None:
    client = served.client(served.authority.user(ANA), health_pb2.DESCRIPTOR.services_by_name["Health"])
    seen: list[int] = []

    async def watch() -> None:
        async for answer in client.stream("Watch", health_pb2.HealthCheckRequest(service="")):
            seen.append(answer.status)  # noqa: PERF401 - read while it grows

    task = asyncio.create_task(watch())
    while not seen:
        await asyncio.sleep(0.01)
    await served.server.stop(notice=0.3, grace=1)
    await asyncio.gather(task, return_exceptions=True)
    assert seen == [health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING]


async def test_drain_lets_a_call_that_ends_in_an_error_finish(tmp_path: Path) -> None:
    """GRPC-03: the client sees the typed error and the handler's clean-up ran; new calls are turned away."""
    echo = Echo()
    async with serving(tmp_path, [echo_service(echo)]) as served:
        client = ana(served)
        failing = asyncio.create_task(client.call("Fail", BytesValue(value=b"800")))
        await asyncio.sleep(0.2)
        stopping = asyncio.create_task(served.server.stop(notice=0, grace=5))
        await asyncio.sleep(0.1)
        with pytest.raises(UnavailableError) as refused:
            await client.call("Sleep", BytesValue())
        assert refused.value.reason == "NOT_SERVING"
        with pytest.raises(FailedPreconditionError):
            await failing
        await stopping
        assert echo.cleaned_up == 1


async def test_reflection_is_for_those_who_may_read(served: Served) -> None:
    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    def bound(user: str) -> object:
        return served.channel(served.authority.user(user)).method(
            "stream_stream",
            path,
            reflection_pb2.ServerReflectionRequest.SerializeToString,
            reflection_pb2.ServerReflectionResponse.FromString,
        )(ask(), timeout=5)

    answers = [a async for a in bound(ANA)]  # type: ignore[attr-defined]
    names = {s.name for s in answers[0].list_services_response.service}
    assert "hedgerow.testing.v1.EchoService" in names
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        _ = [a async for a in bound("mia")]  # type: ignore[attr-defined]
    assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_durable_audit_fails_closed(tmp_path: Path) -> None:
    async with serving(tmp_path, [echo_service(Echo(), Audit.DURABLE)]) as served:
        client = ana(served)
        await client.call("Echo", BytesValue())
        await served.audit.close()
        with pytest.raises(UnavailableError) as caught:
            await client.call("Sleep", BytesValue())
        assert caught.value.reason == "AUDIT_UNAVAILABLE"
