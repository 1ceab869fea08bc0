"""The secrets service itself, over mutual TLS, under its supervisor."""

import asyncio
import contextlib
import datetime as dt
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from hedgerow.channel import pinned_channel
from hedgerow.client import ServiceClient
from hedgerow.errors import HedgerowError, PermissionDeniedError, from_rpc_error
from hedgerow.identity import Identity, new_key_and_csr
from hedgerow.secrets.v1 import secrets_pb2 as pb
from libs.identity.grants import make_grant
from tests.support.suite import RunningSuite, running_suite

SECRETS = pb.DESCRIPTOR.services_by_name["SecretsService"]
KEY = "keys/ingestion-lake-clients-pii"


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSuite]:
    with running_suite(tmp_path_factory.mktemp("suite"), ["secrets"]) as running:
        yield running


@pytest.fixture(scope="module")
def identities(suite: RunningSuite) -> dict[str, Identity]:
    async def gather() -> dict[str, Identity]:
        services = {
            name: await suite.enrol("Enroll", token=suite.token(name)) for name in ("ingestion", "features", "training")
        }
        return services | {name: await suite.log_in(name) for name in ("ana", "operator")}

    return asyncio.run(gather())


class As:
    """Calls as any identity."""

    def __init__(self, suite: RunningSuite, folder: Path, identities: dict[str, Identity]) -> None:
        self._suite, self._folder, self._identities = suite, folder, identities
        self._stack = contextlib.AsyncExitStack()
        self._clients: dict[str, ServiceClient] = {}

    async def client(self, who: str) -> ServiceClient:
        if who not in self._clients:
            context = self._suite.client(self._folder / who, self._identities[who], "secrets", SECRETS)
            self._clients[who] = await self._stack.enter_async_context(context)
        return self._clients[who]

    async def __call__(self, who: str, method: str, request: Any, **context: Any) -> Any:
        return await (await self.client(who)).call(method, request, **{"timeout": 10.0, **context})

    async def close(self) -> None:
        await self._stack.aclose()


@pytest.fixture
async def call(suite: RunningSuite, tmp_path: Path, identities: dict[str, Identity]) -> AsyncIterator[As]:
    caller = As(suite, tmp_path, identities)
    yield caller
    await caller.close()


async def refusal(attempt: Awaitable[Any]) -> tuple[str, str]:
    with pytest.raises(HedgerowError) as caught:
        await attempt
    return caught.value.code_name, caught.value.reason


# Enrolment ------------------------------------------------------------------------------------------------------------


async def test_a_token_gives_a_certificate_once(suite: RunningSuite) -> None:
    token = suite.token("governance")
    identity = await suite.enrol("Enroll", token=token)
    assert identity.spiffe_id == "spiffe://hedgerow.local/service/governance"
    assert identity.matches_key()
    again = await refusal(suite.enrol("Enroll", token=token))
    assert again == ("UNAUTHENTICATED", "CREDENTIAL_REFUSED")


async def test_nobody_enrols_as_the_secrets_service(suite: RunningSuite) -> None:
    supervisor = suite.vault("supervisor")
    supervisor.write_record("enrolment/secrets", {"service": "secrets"}, expected_version=0)
    supervisor.close()
    answer = await refusal(suite.enrol("Enroll", token=suite.token("secrets")))
    assert answer == ("UNAUTHENTICATED", "CREDENTIAL_REFUSED")


async def test_a_malformed_request_does_not_spend_the_token(suite: RunningSuite) -> None:
    token = suite.token("governance")
    assert await refusal(enrolment_call(suite, "Enroll", pb.EnrollRequest(token=token, csr_pem="x"))) == (
        "INVALID_ARGUMENT", "FIELD_INVALID",
    )  # fmt: skip
    assert (await suite.enrol("Enroll", token=token)).spiffe_id.endswith("/governance")


async def test_people_log_in_by_password(suite: RunningSuite) -> None:
    assert (await suite.log_in("ana")).spiffe_id == "spiffe://hedgerow.local/user/ana"
    refused = ("UNAUTHENTICATED", "CREDENTIAL_REFUSED")
    assert await refusal(suite.enrol("Login", username="ben", password="wrong")) == refused
    assert await refusal(suite.enrol("Login", username="nobody", password="wrong")) == refused
    assert await refusal(suite.enrol("Login", username="../ana", password="x")) == ("INVALID_ARGUMENT", "FIELD_INVALID")


@contextlib.asynccontextmanager
async def enrolment_port(suite: RunningSuite, method: str) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Yield a function that calls one method on one connection to the enrolment port."""
    roots = (suite.config.folder / "trust" / "enrolment-ca.pem").read_bytes()
    async with pinned_channel(suite.config.address("enrolment"), "secrets.hedgerow.local", roots) as channel:
        bound = channel.unary_unary(
            f"/hedgerow.secrets.v1.{method}",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=pb.Certificate.FromString,
        )

        async def call(request: Any, timeout: float | None = 30.0) -> Any:
            try:
                return await bound(request, timeout=timeout)
            except grpc.aio.AioRpcError as error:
                raise from_rpc_error(error) from None

        yield call


async def enrolment_call(suite: RunningSuite, method: str, request: Any, timeout: float | None = 30.0) -> Any:
    async with enrolment_port(suite, method if "/" in method else f"EnrolmentService/{method}") as call:
        return await call(request, timeout)


async def test_the_enrolment_port_offers_nothing_else(suite: RunningSuite) -> None:
    request = pb.CreateDataKeyRequest(key=KEY)
    answer = await refusal(enrolment_call(suite, "SecretsService/CreateDataKey", request))
    assert answer == ("UNIMPLEMENTED", "METHOD_UNIMPLEMENTED")


async def test_the_enrolment_port_needs_a_deadline(suite: RunningSuite) -> None:
    answer = await refusal(enrolment_call(suite, "Enroll", pb.EnrollRequest(token="x" * 20), timeout=None))
    assert answer == ("INVALID_ARGUMENT", "DEADLINE_REQUIRED")


async def test_the_main_port_needs_a_certificate(suite: RunningSuite) -> None:
    roots = (suite.config.folder / "trust" / "enrolment-ca.pem").read_bytes()
    async with pinned_channel(suite.config.address("secrets"), "secrets.hedgerow.local", roots) as channel:
        bound = channel.unary_unary("/hedgerow.secrets.v1.SecretsService/CreateDataKey")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await bound(b"", timeout=5.0)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


# Certificates ---------------------------------------------------------------------------------------------------------


async def test_renewal_is_for_the_callers_own_id(call: As, suite: RunningSuite) -> None:
    for who, expected in [("features", "service/features"), ("ana", "user/ana")]:
        key_pem, csr = new_key_and_csr()
        answer = await call(who, "RenewCertificate", pb.RenewCertificateRequest(csr_pem=csr))
        assert answer.spiffe_id == f"spiffe://hedgerow.local/{expected}"
        identity = Identity(key_pem, answer.chain_pem.encode(), answer.roots_pem.encode())
        assert identity.matches_key()
        assert identity.spiffe_id == answer.spiffe_id
        assert f"{identity.certificate.serial_number:x}" == answer.serial
        assert identity.expire_time == answer.expire_time.ToDatetime(dt.UTC)


async def test_who_was_removed_cannot_renew(suite: RunningSuite, tmp_path: Path) -> None:
    admin = suite.vault("admin")
    admin.write("auth/userpass/users/leaver", {"password": "secret"})
    identity = await suite.enrol("Login", username="leaver", password="secret")
    admin._call("delete", "auth/userpass/users/leaver")
    admin.close()
    async with suite.client(tmp_path, identity, "secrets", SECRETS) as client:
        answer = await refusal(
            client.call("RenewCertificate", pb.RenewCertificateRequest(csr_pem=new_key_and_csr()[1]), timeout=10.0)
        )
    # No policy knows the name; were there one, the renewal itself would refuse it.
    assert answer in {("PERMISSION_DENIED", "POLICY_DENIED"), ("UNAUTHENTICATED", "IDENTITY_INVALID")}


async def test_a_revoked_certificate_is_refused_on_its_live_connection_and_stays_so(
    call: As, suite: RunningSuite, tmp_path: Path
) -> None:
    victim = await suite.enrol("Enroll", token=suite.token("inference"))
    async with suite.client(tmp_path / "victim", victim, "secrets", SECRETS) as client:
        await client.call("CreateDataKey", pb.CreateDataKeyRequest(key="keys/inference-cache"), timeout=10.0)
        watch = (await call.client("operator")).stream("WatchTrust", pb.WatchTrustRequest(), timeout=60.0)
        before = await anext(watch)
        serial = f"{victim.certificate.serial_number:x}"
        await call("operator", "RevokeCertificate", pb.RevokeCertificateRequest(serial=serial))
        after = await anext(watch)
        assert after.version > before.version
        assert set(after.revoked_serials) - set(before.revoked_serials) == {serial}
        assert after.roots_pem == before.roots_pem
        request = pb.CreateDataKeyRequest(key="keys/inference-cache")
        assert await refusal(client.call("CreateDataKey", request, timeout=10.0)) == (
            "UNAUTHENTICATED", "CERTIFICATE_REVOKED",
        )  # fmt: skip
        await watch.aclose()

        os.kill(suite.status()["services"]["secrets"]["pid"], signal.SIGKILL)
        async for state in (await call.client("operator")).watch("WatchTrust", pb.WatchTrustRequest(), timeout=30.0):
            assert serial in state.revoked_serials
            assert state.version >= after.version
            break
    assert suite.status()["services"]["secrets"]["restarts"] == 1


async def test_only_an_administrator_revokes(call: As) -> None:
    request = pb.RevokeCertificateRequest(serial="1234")
    assert await refusal(call("ana", "RevokeCertificate", request)) == ("PERMISSION_DENIED", "POLICY_DENIED")
    assert await refusal(call("operator", "RevokeCertificate", request)) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    request = pb.RevokeCertificateRequest(serial="../x")
    assert await refusal(call("operator", "RevokeCertificate", request)) == ("INVALID_ARGUMENT", "FIELD_INVALID")


# Keys -----------------------------------------------------------------------------------------------------------------


async def test_the_owner_makes_wraps_and_unwraps(call: As) -> None:
    made = await call("ingestion", "CreateDataKey", pb.CreateDataKeyRequest(key=KEY))
    assert len(made.plaintext) == 32
    wrapped = await call("ingestion", "WrapKey", pb.WrapKeyRequest(key=KEY, plaintext=made.plaintext))
    for one in (made.wrapped, wrapped.wrapped):
        answer = await call("ingestion", "UnwrapKey", pb.UnwrapKeyRequest(key=KEY, wrapped=one))
        assert answer.plaintext == made.plaintext


@pytest.mark.parametrize("who", ["features", "ana", "operator"])
async def test_nobody_else_uses_a_key(call: As, who: str) -> None:
    made = await call("ingestion", "CreateDataKey", pb.CreateDataKeyRequest(key=KEY))
    for method, request in [
        ("CreateDataKey", pb.CreateDataKeyRequest(key=KEY)),
        ("WrapKey", pb.WrapKeyRequest(key=KEY, plaintext=b"x")),
        ("UnwrapKey", pb.UnwrapKeyRequest(key=KEY, wrapped=made.wrapped)),
        ("Sign", pb.SignRequest(key="signingKeys/ingestion-grants", payload=b"x")),
    ]:
        assert await refusal(call(who, method, request)) == ("PERMISSION_DENIED", "POLICY_DENIED")


async def grant(call: As, owner: str = "ingestion", key: str = KEY, minutes: int = 5, grantee: str = "features") -> str:
    async def sign(payload: bytes) -> tuple[bytes, int]:
        request = pb.SignRequest(key=f"signingKeys/{owner}-grants", payload=payload)
        answer = await call(owner, "Sign", request)
        return answer.signature, answer.key_version

    expire_time = dt.datetime.now(dt.UTC) + dt.timedelta(minutes=minutes)
    return await make_grant(
        sign, keys=[key], grantee=f"spiffe://hedgerow.local/service/{grantee}", expire_time=expire_time
    )


async def test_a_grant_opens_one_key_for_one_service(call: As) -> None:
    made = await call("ingestion", "CreateDataKey", pb.CreateDataKeyRequest(key=KEY))
    good = await grant(call)
    request = pb.UnwrapKeyRequest(key=KEY, wrapped=made.wrapped, grant=good)
    assert (await call("features", "UnwrapKey", request)).plaintext == made.plaintext
    invalid = ("PERMISSION_DENIED", "GRANT_INVALID")
    assert await refusal(call("training", "UnwrapKey", request)) == invalid
    other = pb.UnwrapKeyRequest(key="keys/ingestion-sql", wrapped=made.wrapped, grant=good)
    assert await refusal(call("features", "UnwrapKey", other)) == invalid
    for text in (await grant(call, minutes=-1), good[:-4] + "AAAA", "made.1.up", "x"):
        request = pb.UnwrapKeyRequest(key=KEY, wrapped=made.wrapped, grant=text)
        assert await refusal(call("features", "UnwrapKey", request)) == invalid


async def test_a_service_cannot_grant_what_another_owns(call: As) -> None:
    made = await call("ingestion", "CreateDataKey", pb.CreateDataKeyRequest(key=KEY))

    async def sign(payload: bytes) -> tuple[bytes, int]:
        answer = await call("features", "Sign", pb.SignRequest(key="signingKeys/features-grants", payload=payload))
        return answer.signature, answer.key_version

    forged = await make_grant(
        sign,
        keys=[KEY],
        grantee="spiffe://hedgerow.local/service/features",
        expire_time=dt.datetime.now(dt.UTC) + dt.timedelta(minutes=5),
    )
    await grant(call)  # so that ingestion has a grant key of its own
    with pytest.raises(PermissionDeniedError) as caught:
        await call("features", "UnwrapKey", pb.UnwrapKeyRequest(key=KEY, wrapped=made.wrapped, grant=forged))
    assert caught.value.reason == "GRANT_INVALID"


async def test_wrong_key_material_is_the_callers_fault(call: As) -> None:
    await call("ingestion", "CreateDataKey", pb.CreateDataKeyRequest(key=KEY))
    invalid = ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert await refusal(call("ingestion", "UnwrapKey", pb.UnwrapKeyRequest(key=KEY, wrapped=b"junk"))) == invalid
    assert await refusal(call("ingestion", "WrapKey", pb.WrapKeyRequest(key=KEY))) == invalid
    assert await refusal(call("ingestion", "CreateDataKey", pb.CreateDataKeyRequest(key="lake"))) == invalid
    missing = pb.UnwrapKeyRequest(key="keys/ingestion-none", wrapped=b"vault:v1:AAAA")
    assert await refusal(call("ingestion", "UnwrapKey", missing)) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")


async def test_pseudonym_keys_are_for_those_whom_policy_names(call: As) -> None:
    request = pb.GetPseudonymKeyRequest(name="pseudonymKeys/clients")
    first = await call("ingestion", "GetPseudonymKey", request)
    assert len(first.key) == 32
    assert await call("features", "GetPseudonymKey", request) == first
    for who in ("training", "ana"):
        assert await refusal(call(who, "GetPseudonymKey", request)) == ("PERMISSION_DENIED", "POLICY_DENIED")


async def test_signatures_verify_for_anyone(call: As) -> None:
    key = "signingKeys/training-evidence"
    made = await call("training", "Sign", pb.SignRequest(key=key, payload=b"digest"))
    public = await call("ana", "GetVerificationKey", pb.GetVerificationKeyRequest(key=key))
    Ed25519PublicKey.from_public_bytes(public.public_keys[made.key_version]).verify(made.signature, b"digest")
    missing = pb.GetVerificationKeyRequest(key="signingKeys/training-none")
    assert await refusal(call("ana", "GetVerificationKey", missing)) == ("NOT_FOUND", "RESOURCE_NOT_FOUND")


async def test_messages_have_a_limit(call: As) -> None:
    big = pb.SignRequest(key="signingKeys/training-evidence", payload=b"x" * 2 * 1024 * 1024)
    assert await refusal(call("training", "Sign", big)) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")
    big = pb.WrapKeyRequest(key=KEY, plaintext=b"x" * 100_000)
    assert await refusal(call("ingestion", "WrapKey", big)) == ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE")


async def test_no_secret_is_in_a_log(call: As, suite: RunningSuite) -> None:
    made = await call("ingestion", "CreateDataKey", pb.CreateDataKeyRequest(key=KEY))
    log = suite.log("secrets")
    for person in ("ana", "operator"):
        assert (suite.config.folder / "users" / person / "password").read_text() not in log
    assert made.wrapped.decode() not in log


async def test_the_enrolment_port_has_a_rate_limit(suite: RunningSuite) -> None:
    """Last: it leaves the port's allowance empty for a moment."""

    async with enrolment_port(suite, "EnrolmentService/Enroll") as call:

        async def attempt() -> str:
            try:
                await call(pb.EnrollRequest(token="made-up-token-000", csr_pem="x"))
            except HedgerowError as error:
                return error.reason
            return ""

        reasons = await asyncio.gather(*(attempt() for _ in range(400)))
    assert set(reasons) <= {"FIELD_INVALID", "RATE_LIMITED", "OVERLOADED"}
    assert set(reasons) & {"RATE_LIMITED", "OVERLOADED"}
