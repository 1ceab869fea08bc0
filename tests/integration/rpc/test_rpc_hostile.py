"""The chain against callers who try: forged authority, overlong names, open streams, races with creation, open ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.wrappers_pb2 import BytesValue
from prometheus_client import CollectorRegistry

from hedgerow.errors import (
    HedgerowError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnauthenticatedError,
    from_rpc_error,
)
from libs.authz import Authorizer, compile_bundle
from libs.identity.trust import TrustStore
from libs.rpc import Access, Audit, Call, Resource, ResourceAttributes, Service
from libs.rpc.delegation import DelegationSigner, DelegationVerifier
from libs.rpc.open_port import OpenChain, OpenPort
from libs.rpc.rate_limit import RateLimiter
from libs.telemetry import CallMetrics, Tracer
from tests.support.audit import RecordingWriter, audit_writer
from tests.support.authority import DOMAIN, Authority, folder, service_id, user_id
from tests.support.echo import DESCRIPTOR, Echo, describe
from tests.support.serving import Served, project_bundle, serving

ANA = "ana"
BOTH = "/hedgerow.testing.v1.EchoService/Both"


def named_service(
    servicer: Echo,
    *,
    action: str = "ingestion.GetDataset",
    creates: bool = False,
    describe: Callable[[Resource], Awaitable[ResourceAttributes]] = describe,
) -> Service:
    """Return the echo service with the dataset ``datasets/<value>`` as what each message names."""
    from dataclasses import replace

    access = {
        method.name: Access(
            lambda r: [Resource("Dataset", f"datasets/{r.value.decode()}")], Audit.BUFFERED, creates=creates
        )
        for method in DESCRIPTOR.methods
    }
    service = Service(DESCRIPTOR, servicer, area="ingestion", access=access, describe=describe)
    service.methods = [replace(method, action=action) for method in service.methods]
    return service


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    async with serving(tmp_path, [named_service(Echo())]) as running:
        yield running


async def typed(call: Awaitable[Any]) -> HedgerowError:
    """Return the typed error that a raw call ends with."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return from_rpc_error(caught.value)


# ---- who speaks for whom


async def test_a_person_speaks_for_nobody_else(tmp_path: Path) -> None:
    """Else a person could name others as the cause of its calls, and use up their rate in place of its own."""
    async with serving(tmp_path, [named_service(Echo())], limiter=RateLimiter(0.001, 2)) as served:
        identity = served.authority.user(ANA)
        client = served.client(identity, DESCRIPTOR)
        for victim in ("ben", "pia", "ben", "pia"):
            token = DelegationSigner(lambda: identity).token(user_id(victim), "", 60)
            with pytest.raises(UnauthenticatedError) as caught:
                await client.call("Echo", BytesValue(value=b"a"), on_behalf_of=token)
            assert caught.value.reason == "DELEGATION_INVALID"
        assert {event.on_behalf_of for event in served.events} == {""}


@pytest.mark.parametrize("subject", ["ben", "spiffe://hedgerow.local/robot/ben", "x" * 1000])
async def test_a_token_is_for_a_principal(served: Served, subject: str) -> None:
    identity = served.authority.service("features")
    token = DelegationSigner(lambda: identity).token(subject, "", 60)
    with pytest.raises(UnauthenticatedError) as caught:
        await served.client(identity, DESCRIPTOR).call("Echo", BytesValue(value=b"a"), on_behalf_of=token)
    assert caught.value.reason == "DELEGATION_INVALID"


def test_a_leaf_is_no_authority(tmp_path: Path) -> None:
    """Whoever holds a certificate of the suite cannot sign another with it, for the chain of a token."""
    authority = Authority()
    holder = authority.service("features")
    forger = Authority("forger")
    forger._key, forger.certificate = _key_of(holder), holder.certificate
    forged = forger.service("inference", roots_pem=authority.roots_pem)
    chained = type(forged)(forged.key_pem, forged.chain_pem + holder.chain_pem, authority.roots_pem)
    token = DelegationSigner(lambda: chained).token(user_id("ben"), "", 60)
    verifier = DelegationVerifier(lambda: authority.roots_pem)
    with pytest.raises(UnauthenticatedError) as caught:
        verifier.verify(token, peer=service_id("inference"), purpose="")
    assert caught.value.reason == "DELEGATION_INVALID"


def _key_of(identity: Any) -> Any:
    from cryptography.hazmat.primitives import serialization

    return serialization.load_pem_private_key(identity.key_pem, password=None)


@pytest.mark.parametrize("path", ["supervisor", "robot/r2", "user/", "user/ana/more"])
async def test_a_name_that_is_no_principal_is_an_identity_fault(served: Served, path: str) -> None:
    identity = served.authority.issue(f"spiffe://{DOMAIN}/{path}", dns=())
    with pytest.raises(UnauthenticatedError) as caught:
        await served.client(identity, DESCRIPTOR).call("Echo", BytesValue(value=b"a"))
    assert caught.value.reason == "IDENTITY_INVALID"


# ---- what is named


async def test_a_long_name_stays_small_everywhere(served: Served) -> None:
    name = b"x" * 2_000_000
    with pytest.raises(PermissionDeniedError) as caught:
        await served.client(served.authority.user("nobody"), DESCRIPTOR).call("Echo", BytesValue(value=name))
    assert len(caught.value.metadata["resource"]) <= 256
    assert len(served.events[-1].resources[0]) <= 256
    kept = [len(key[2].name) for key in served.chain._authorizer._cache]  # type: ignore[attr-defined]
    assert max(kept) <= 256


async def test_what_does_not_exist_is_never_handed_to_a_handler(tmp_path: Path) -> None:
    """It has no purposes yet: made between the decision and the handler, it would be used for any purpose."""
    exists = False

    async def looked_up(resource: Resource) -> ResourceAttributes:
        nonlocal exists
        if exists:
            return ResourceAttributes(frozenset({"credit_risk"}))
        exists = True  # another caller makes it at the worst moment
        raise NotFoundError(f"{resource.name} does not exist", metadata={"resource": resource.name})

    service = named_service(Echo(), action="ingestion.OpenSnapshot", describe=looked_up)
    async with serving(tmp_path, [service]) as served:
        mia = served.client(served.authority.user("mia"), DESCRIPTOR)
        with pytest.raises(NotFoundError):
            await mia.call("Echo", BytesValue(value=b"credit"), purpose="marketing")
        with pytest.raises(PermissionDeniedError) as caught:
            await mia.call("Echo", BytesValue(value=b"credit"), purpose="marketing")
        assert caught.value.reason == "PURPOSE_NOT_PERMITTED"


async def test_rights_come_before_existence(tmp_path: Path) -> None:
    async def missing(resource: Resource) -> ResourceAttributes:
        raise NotFoundError(f"{resource.name} does not exist")

    async with serving(tmp_path, [named_service(Echo(), describe=missing)]) as served:
        with pytest.raises(PermissionDeniedError):
            await served.client(served.authority.user("nobody"), DESCRIPTOR).call("Echo", BytesValue(value=b"a"))


async def test_what_a_call_is_to_make_need_not_exist(tmp_path: Path) -> None:
    async def missing(resource: Resource) -> ResourceAttributes:
        raise NotFoundError(f"{resource.name} does not exist")

    service = named_service(Echo(), action="ingestion.CreateDataset", creates=True, describe=missing)
    async with serving(tmp_path, [service]) as served:
        client = served.client(served.authority.user(ANA), DESCRIPTOR)
        assert (await client.call("Echo", BytesValue(value=b"new"))).value == b"new"


# ---- open streams


async def test_revocation_ends_an_open_two_way_stream(served: Served) -> None:
    go = asyncio.Event()

    async def requests() -> AsyncIterator[BytesValue]:
        yield BytesValue(value=b"first")
        await go.wait()
        yield BytesValue(value=b"second")

    identity = served.authority.user(ANA)
    channel = served.channel(identity)
    call = channel.method("stream_stream", BOTH, BytesValue.SerializeToString, BytesValue.FromString)(
        requests(), timeout=10
    )
    assert (await call.read()).value == b"first"
    served.trust.update(1, frozenset({f"{identity.certificate.serial_number:x}"}))
    go.set()
    error = await typed(call.read())
    assert (type(error), error.reason) == (UnauthenticatedError, "CERTIFICATE_REVOKED")


async def test_a_revoked_caller_gets_no_further_answer_of_a_stream(served: Served) -> None:
    identity = served.authority.user(ANA)
    answers = served.client(identity, DESCRIPTOR).stream("Down", BytesValue(value=b"100"))
    await anext(answers)
    served.trust.update(1, frozenset({f"{identity.certificate.serial_number:x}"}))
    with pytest.raises(UnauthenticatedError) as caught:
        _ = [answer async for answer in answers]
    assert caught.value.reason == "CERTIFICATE_REVOKED"


async def test_the_trail_names_all_that_a_two_way_stream_used(served: Served) -> None:
    async def requests() -> AsyncIterator[BytesValue]:
        for name in (b"one", b"two", b"two", b"three"):
            yield BytesValue(value=name)

    bound = served.channel(served.authority.user(ANA)).method(
        "stream_stream", BOTH, BytesValue.SerializeToString, BytesValue.FromString
    )
    assert [answer.value async for answer in bound(requests(), timeout=10)] == [b"one", b"two", b"two", b"three"]
    used = [event.resources for event in served.events if event.code == "OK"]
    assert used == [("datasets/one",), ("datasets/two",), ("datasets/two",), ("datasets/three",)]


# ---- the open port


async def test_an_open_port_has_a_bound_on_calls_in_progress(tmp_path: Path) -> None:
    authority = Authority()
    kept = folder(tmp_path / "server", authority.service("secrets"))
    identity = kept.current()
    assert identity is not None
    access = {method.name: Access(lambda r: [], Audit.NONE) for method in DESCRIPTOR.methods}
    service = Service(DESCRIPTOR, Echo(), area="secrets", access=access)
    service.methods = [method for method in service.methods if not method.client_streaming]
    async with audit_writer(tmp_path / "audit", service="secrets", kind=RecordingWriter) as audit:
        chain = OpenChain(
            trust=TrustStore(DOMAIN),
            authorizer=Authorizer(compile_bundle(project_bundle())),
            audit=audit,
            metrics=CallMetrics(CollectorRegistry()),
            tracer=Tracer("secrets", 0.0),
            limiter=RateLimiter(1e6, 1e6),
            verifier=DelegationVerifier(lambda: authority.roots_pem),
            signer=DelegationSigner(lambda: identity),
            max_calls=4,
        )
        port = OpenPort(chain, service, kept, "127.0.0.1:0")
        await port.start()
        options = [("grpc.ssl_target_name_override", f"secrets.{DOMAIN}")]
        credentials = grpc.ssl_channel_credentials(authority.roots_pem)
        async with grpc.aio.secure_channel(f"127.0.0.1:{port.port}", credentials, options=options) as channel:
            sleep = channel.unary_unary(
                "/hedgerow.testing.v1.EchoService/Sleep", BytesValue.SerializeToString, BytesValue.FromString
            )

            async def one() -> Any:
                return await sleep(BytesValue(value=b"500"), timeout=5)

            results = await asyncio.gather(*(one() for _ in range(20)), return_exceptions=True)
        await port.stop()
    refused = [from_rpc_error(r) for r in results if isinstance(r, grpc.aio.AioRpcError)]
    assert {(type(error), error.reason) for error in refused} == {(ResourceExhaustedError, "OVERLOADED")}
    assert len(refused) == 16


# ---- errors


async def test_an_error_of_any_size_arrives_as_itself(tmp_path: Path) -> None:
    """gRPC drops trailing metadata beyond a few KiB, and the code with it."""

    class Faulty(Echo):
        async def echo(self, request: Any, call: Call) -> Any:
            raise InvalidArgumentError(
                "€" * 100_000,
                metadata={f"key{i}": "€" * 1000 for i in range(100)},
                fields={f"contract.columns[{i}].name": "€" * 1000 for i in range(1000)},
            )

    async with serving(tmp_path, [named_service(Faulty())]) as served:
        client = served.client(served.authority.user(ANA), DESCRIPTOR)
        with pytest.raises(InvalidArgumentError) as caught:
            await client.call("Echo", BytesValue(value=b"a"))
        assert caught.value.reason == "FIELD_INVALID"
        assert "contract.columns[0].name" in caught.value.fields
