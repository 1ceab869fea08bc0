"""Who is let in at all: TLS with a certificate of the suite on every port, and two calls without one on one port."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
import pytest
from google.protobuf import message_factory

from hedgerow.channel import pinned_channel, secure_channel
from hedgerow.client import enrol, new_key_and_csr
from hedgerow.errors import HedgerowError, UnauthenticatedError
from hedgerow.identity import IdentityFolder
from hedgerow.secrets.v1 import secrets_pb2
from tests.e2e.calling import ENROLMENT, OWN, RPCS, Rpc, refusal
from tests.e2e.entries import ENTRIES
from tests.support.authority import Authority
from tests.support.suite import RunningSuite

SERVICES = sorted(OWN)
# The others are on ``grpc.aio``, which closes a connection that it refuses without sending its alert.
ON_THE_LANE = ("features", "inference")
HEALTH = [rpc for rpc in RPCS if rpc.action == "health.Check"]
REFUSED = "UNAUTHENTICATED CREDENTIAL_REFUSED"


def first_answer(suite: RunningSuite, port: int, name: str, certificate: Path | None, asked: bytes = b"") -> str:
    """Return what a client gets that offers a certificate, or none, and asks: ``bytes``, ``nothing``, or the alert.

    In TLS 1.3 a client is done before the server has judged its certificate: the refusal comes at the first read.
    """
    context = ssl.create_default_context(cadata=suite.enrolment_roots().decode())
    context.set_alpn_protocols(["h2"])
    if certificate is not None:
        context.load_cert_chain(certificate)
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname=name) as secured,
        ):
            assert secured.version() == "TLSv1.3"
            secured.sendall(asked)
            return "bytes" if secured.recv(64) else "nothing"
    except ssl.SSLError as error:
        return str(error.reason)
    except ConnectionResetError:
        return "nothing"


def both_ports(suite: RunningSuite, service: str, certificate: Path | None, asked: bytes = b"") -> tuple[str, str]:
    """Return the first answers of the gRPC port, which speaks first, and of the metrics port, which must be asked."""
    name = suite.server_name(service)
    grpc_port, metrics_port = suite.config.ports[service], suite.config.metrics_port(service)
    first = first_answer(suite, grpc_port, name, certificate)
    return first, first_answer(suite, metrics_port, name, certificate, asked)


@pytest.mark.parametrize("service", SERVICES)
async def test_a_certificate_of_the_suite_is_let_in(whole_suite: RunningSuite, service: str) -> None:
    certificate = (await whole_suite.person("ana")).folder / "identity.pem"
    assert both_ports(whole_suite, service, certificate, b"GET /metrics HTTP/1.0\r\n\r\n") == ("bytes", "bytes")


@pytest.mark.parametrize("service", SERVICES)
def test_the_handshake_fails_without_a_certificate(whole_suite: RunningSuite, service: str) -> None:
    alert = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert both_ports(whole_suite, service, None) == (alert if service in ON_THE_LANE else "nothing", alert)


@pytest.mark.parametrize("service", SERVICES)
def test_the_handshake_fails_with_a_foreign_certificate(
    whole_suite: RunningSuite, service: str, tmp_path: Path
) -> None:
    IdentityFolder(tmp_path).save(Authority().user("ana"))
    found, alert = both_ports(whole_suite, service, tmp_path / "identity.pem"), "TLSV1_ALERT_UNKNOWN_CA"
    assert found == (alert if service in ON_THE_LANE else "nothing", alert)


@pytest.mark.parametrize("rpc", HEALTH, ids=str)
async def test_a_call_without_or_with_a_foreign_certificate_gets_no_answer(whole_suite: RunningSuite, rpc: Rpc) -> None:
    address, name = whole_suite.config.address(rpc.port), whole_suite.server_name(rpc.port)
    roots = whole_suite.enrolment_roots()
    forged = Authority().user("ana", roots_pem=roots)
    for channel in (pinned_channel(address, name, roots), secure_channel(address, name, forged)):
        answer = await refusal(channel, rpc.method, [b""], timeout=5.0)
        await channel.close()
        assert answer == "UNAVAILABLE DEPENDENCY_UNAVAILABLE"


@pytest.mark.parametrize("service", SERVICES)
async def test_nobody_passes_for_another_service(whole_suite: RunningSuite, service: str) -> None:
    """The other side of mutual TLS: a caller that expects one service does not talk to another."""
    ana = (await whole_suite.person("ana")).load()
    assert ana is not None
    other = SERVICES[SERVICES.index(service) - 1]
    channel = secure_channel(whole_suite.config.address(other), whole_suite.server_name(service), ana)
    answer = await refusal(channel, HEALTH[0].method, [b""], timeout=5.0)
    await channel.close()
    assert answer == "UNAVAILABLE DEPENDENCY_UNAVAILABLE"


# ---- the enrolment port


@pytest.fixture
async def enrolment(whole_suite: RunningSuite) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to the enrolment port."""
    address, name = whole_suite.config.address("enrolment"), whole_suite.server_name("secrets")
    channel = pinned_channel(address, name, whole_suite.enrolment_roots())
    yield channel
    await channel.close()


async def test_the_enrolment_port_offers_enrol_and_login_alone(enrolment: grpc.aio.Channel) -> None:
    assert [method.name for method in ENROLMENT.methods] == ["Enroll", "Login"]
    for rpc in RPCS:
        raw = ENTRIES[rpc.key].request.SerializeToString()
        assert await refusal(enrolment, rpc.method, [raw]) == "UNIMPLEMENTED METHOD_UNIMPLEMENTED", rpc


@pytest.mark.parametrize("service", SERVICES)
async def test_no_other_port_offers_enrolment(whole_suite: RunningSuite, service: str) -> None:
    ana = (await whole_suite.person("ana")).load()
    assert ana is not None
    channel = secure_channel(whole_suite.config.address(service), whole_suite.server_name(service), ana)
    for method in ENROLMENT.methods:
        raw = message_factory.GetMessageClass(method.input_type)().SerializeToString()
        assert await refusal(channel, method, [raw]) == "UNIMPLEMENTED METHOD_UNIMPLEMENTED"
    await channel.close()


async def test_the_enrolment_port_refuses_what_is_no_credential(enrolment: grpc.aio.Channel) -> None:
    _, csr = new_key_and_csr()
    enroll, login = (ENROLMENT.methods_by_name[name] for name in ("Enroll", "Login"))
    for method, request, answer in (
        (enroll, secrets_pb2.EnrollRequest(token="s.never-made-0000", csr_pem=csr), REFUSED),
        (login, secrets_pb2.LoginRequest(username="ana", password="x", csr_pem=csr), REFUSED),
        (login, secrets_pb2.LoginRequest(username="nobody", password="x", csr_pem=csr), REFUSED),
        (login, secrets_pb2.LoginRequest(username="Ana!", password="x", csr_pem=csr), "INVALID_ARGUMENT FIELD_INVALID"),
        (enroll, secrets_pb2.EnrollRequest(token="x", csr_pem="x"), "INVALID_ARGUMENT FIELD_INVALID"),
    ):
        assert await refusal(enrolment, method, [request.SerializeToString()]) == answer, request
    for method in (enroll, login):
        assert await refusal(enrolment, method, [b"\xff\xff"]) == "INVALID_ARGUMENT MESSAGE_MALFORMED"
        assert await refusal(enrolment, method, [b""], timeout=None) == "INVALID_ARGUMENT DEADLINE_REQUIRED"
        # The second is beyond what gRPC itself takes on this port.
        for size in (65 * 1024, 129 * 1024):
            assert await refusal(enrolment, method, [bytes(size)]) == "RESOURCE_EXHAUSTED MESSAGE_TOO_LARGE"


async def test_an_enrolment_token_works_once(whole_suite: RunningSuite) -> None:
    token = whole_suite.token("features")
    assert (await whole_suite.enrol("Enroll", token=token)).spiffe_id.endswith("/service/features")
    with pytest.raises(UnauthenticatedError) as refused:
        await whole_suite.enrol("Enroll", token=token)
    assert refused.value.reason == "CREDENTIAL_REFUSED"


async def test_a_password_goes_to_the_pinned_ca_alone(whole_suite: RunningSuite) -> None:
    with pytest.raises(HedgerowError) as refused:
        await enrol(
            whole_suite.config.address("enrolment"),
            whole_suite.server_name("secrets"),
            Authority().roots_pem,
            ENROLMENT.methods_by_name["Login"],
            timeout=1.0,
            username="ana",
            password="never sent",
        )
    assert refused.value.code_name in ("UNAVAILABLE", "DEADLINE_EXCEEDED")
