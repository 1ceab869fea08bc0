"""Who has no rights gets nothing: every RPC as an identity that no policy knows, and as one with few rights."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from grpc_reflection.v1alpha import reflection_pb2

from hedgerow.channel import secure_channel
from hedgerow.errors import PermissionDeniedError
from hedgerow.secrets.v1 import secrets_pb2
from tests.e2e.calling import EVERYWHERE, OWN, RPCS, Callers, Rpc, actions_in, refusal, send
from tests.e2e.entries import ENTRIES
from tests.support.gym import PURPOSE, Gym
from tests.support.suite import RunningSuite

pytestmark = pytest.mark.asyncio(loop_scope="module")

STRANGER = "nora"
PORTS = sorted(OWN)
DATA = actions_in("data")
# What marketing may do at all; the guard on purposes holds back what would use data of other purposes.
MARKETING = actions_in("open", "serve", "data") | {"secrets.GetVerificationKey"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stranger(whole_suite: RunningSuite, callers: Callers) -> str:
    """A person who can log in and is in no policy."""
    whole_suite.add_person(STRANGER)
    return STRANGER


@pytest.mark.parametrize("port", PORTS)
async def test_a_port_serves_what_the_table_says(callers: Callers, port: str) -> None:
    (reflection,) = EVERYWHERE[1][0].methods
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    raw = await send(await callers.channel("ana", port), reflection, [request.SerializeToString()])
    answer = reflection_pb2.ServerReflectionResponse.FromString(raw or b"")
    served = {service.name for service in answer.list_services_response.service}
    assert served == {descriptor.full_name for descriptor, _ in (*OWN[port], *EVERYWHERE)}


@pytest.mark.parametrize("rpc", RPCS, ids=str)
async def test_an_identity_without_rights_is_refused(callers: Callers, stranger: str, rpc: Rpc) -> None:
    entry = ENTRIES[rpc.key]
    channel = await callers.channel(stranger, rpc.port)
    for purpose in ("", PURPOSE):
        with pytest.raises(PermissionDeniedError) as refused:
            await send(channel, rpc.method, [entry.request.SerializeToString()], purpose=purpose)
        assert refused.value.reason == "POLICY_DENIED"
        assert refused.value.metadata["action"] == rpc.action
        assert "resource" in refused.value.metadata


async def test_every_refusal_is_in_the_trail(whole_suite: RunningSuite, callers: Callers, stranger: str) -> None:
    for rpc in RPCS:
        raw = ENTRIES[rpc.key].request.SerializeToString()
        assert await refusal(await callers.channel(stranger, rpc.port), rpc.method, [raw]) == (
            "PERMISSION_DENIED POLICY_DENIED"
        )
    pia = await whole_suite.connect("pia")
    try:
        assert (await pia.governance.verify_audit_trail(seal_first=True)).verified
        actor = f"spiffe://{whole_suite.config.trust_domain}/user/{stranger}"
        noted = {
            (event.service, event.action)
            async for event in pia.governance.list_audit_events(actor=actor, decision="deny")
            if event.code == "PERMISSION_DENIED"
        }
    finally:
        await pia.close()
    assert noted >= {(rpc.port, rpc.action) for rpc in RPCS}


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc.action not in MARKETING], ids=str)
async def test_marketing_is_refused_what_is_not_its_work(callers: Callers, rpc: Rpc) -> None:
    raw = ENTRIES[rpc.key].request.SerializeToString()
    answer = await refusal(await callers.channel("mia", rpc.port), rpc.method, [raw], purpose="marketing")
    assert answer == "PERMISSION_DENIED POLICY_DENIED"


@pytest.mark.parametrize("rpc", [rpc for rpc in RPCS if rpc.action in DATA], ids=str)
@pytest.mark.parametrize("purpose", ["", "marketing", PURPOSE])
async def test_marketing_gets_no_data_of_another_purpose(callers: Callers, gym: Gym, rpc: Rpc, purpose: str) -> None:
    used = ENTRIES[rpc.key].used
    assert used is not None, "an RPC that uses data names some in the table"
    channel = await callers.channel("mia", rpc.port)
    answer = await refusal(channel, rpc.method, [used.SerializeToString()], purpose=purpose)
    assert answer == "PERMISSION_DENIED PURPOSE_NOT_PERMITTED"


async def test_a_revoked_certificate_is_refused_everywhere(whole_suite: RunningSuite, tmp_path: Path) -> None:
    identity = await whole_suite.log_in("ana")
    serial = f"{identity.certificate.serial_number:x}"
    secrets = secrets_pb2.DESCRIPTOR.services_by_name["SecretsService"]
    health = EVERYWHERE[0][0].methods_by_name["Check"]
    channels = {
        port: secure_channel(whole_suite.config.address(port), whole_suite.server_name(port), identity)
        for port in PORTS
    }
    try:
        for channel in channels.values():
            assert await refusal(channel, health, [b""]) == "OK"
        operator = (await whole_suite.person("operator")).load()
        assert operator is not None
        async with whole_suite.client(tmp_path / "operator", operator, "secrets", secrets) as client:
            await client.call("RevokeCertificate", secrets_pb2.RevokeCertificateRequest(serial=serial))
        for channel in channels.values():
            await until_revoked(channel, health)
    finally:
        for channel in channels.values():
            await channel.close()


async def until_revoked(channel: grpc.aio.Channel, method: Any) -> None:
    """Each service hears of a revocation in its own moment; on a connection that was open before."""
    for _ in range(100):
        if await refusal(channel, method, [b""]) == "UNAUTHENTICATED CERTIFICATE_REVOKED":
            return
        await asyncio.sleep(0.05)
    raise AssertionError("the certificate still works")
