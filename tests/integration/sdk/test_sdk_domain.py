"""A suite is called in its own trust domain, which the caller's identity names."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from tritonclient.utils import InferenceServerException

from hedgerow.errors import DeadlineExceededError, UnavailableError
from hedgerow.identity import Identity
from hedgerow.sdk import Context, Hedgerow, login, triton_client
from hedgerow.secrets.v1 import secrets_pb2 as pb
from tests.integration.sdk.mirror import Suite, mirrored
from tests.support import authority, serving
from tests.support.authority import folder

DOMAIN = "suite.example.org"


@pytest.fixture
async def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Suite]:
    bundle = serving.project_bundle().replace(authority.DOMAIN.encode(), DOMAIN.encode())
    monkeypatch.setattr(serving, "project_bundle", lambda: bundle)
    monkeypatch.setattr(serving, "DOMAIN", DOMAIN)
    monkeypatch.setattr(authority, "DOMAIN", DOMAIN)
    async with mirrored(tmp_path) as served:
        yield served


async def test_the_services_of_another_domain_are_called(suite: Suite) -> None:
    assert identity_of(suite).trust_domain == DOMAIN
    async with Hedgerow.connect(suite.identity, suite.addresses, purpose="credit_risk") as hedgerow:
        await hedgerow.ingestion.get_dataset("datasets/d")
        await hedgerow.governance.get_policy_bundle()
    assert len(suite.mirror.calls) == 2


async def test_a_service_of_another_domain_is_not_talked_to(suite: Suite, tmp_path: Path) -> None:
    ana = suite.authority.issue("spiffe://elsewhere.example/user/ana", dns=())
    stranger = folder(tmp_path / "stranger", ana)
    async with Hedgerow.connect(stranger, suite.addresses) as hedgerow:
        with pytest.raises(UnavailableError):
            await hedgerow.ingestion.get_dataset("datasets/d")
    assert not suite.mirror.calls


async def test_a_triton_client_calls_the_inference_service_of_another_domain(suite: Suite) -> None:
    def ask() -> None:
        with triton_client(suite.identity, suite.addresses["inference"]) as client:
            client.is_server_live()

    # The mirror does not have that protocol, and says so: the two have accepted each other.
    with pytest.raises(InferenceServerException, match="UNIMPLEMENTED"):
        await asyncio.to_thread(ask)


async def test_people_log_in_to_the_domain_that_the_context_names(tmp_path: Path) -> None:
    authority_of_login = authority.Authority()
    certificate = pb.Certificate(chain_pem="chain", roots_pem="roots")
    seen: list[pb.LoginRequest] = []

    async def log_in(request: pb.LoginRequest, context: object) -> pb.Certificate:
        seen.append(request)
        return certificate

    handler = grpc.unary_unary_rpc_method_handler(log_in, pb.LoginRequest.FromString, pb.Certificate.SerializeToString)
    server = grpc.aio.server()
    server.add_registered_method_handlers("hedgerow.secrets.v1.EnrolmentService", {"Login": handler})
    identity = authority_of_login.issue(f"spiffe://{DOMAIN}/service/secrets", dns=[f"secrets.{DOMAIN}"])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(identity.key_pem, identity.chain_pem)]))
    await server.start()
    try:
        context = Context(tmp_path, {}, f"127.0.0.1:{port}", DOMAIN)
        context.save(authority_of_login.roots_pem)
        kept = await login(context, "ana", "password", timeout=60)
        elsewhere = Context(tmp_path, {}, f"127.0.0.1:{port}")
        with pytest.raises(DeadlineExceededError):
            await login(elsewhere, "ana", "password", timeout=1)
    finally:
        await server.stop(None)
    assert [(request.username, request.password) for request in seen] == [("ana", "password")]
    assert (kept.folder / "identity.pem").read_text().endswith("chain")


def identity_of(suite: Suite) -> Identity:
    identity = suite.identity.current()
    assert identity is not None
    return identity
