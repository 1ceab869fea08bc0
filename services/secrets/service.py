"""The servicers: messages in, messages out, one use case per method."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from hedgerow.errors import PermissionDeniedError
from hedgerow.secrets.v1 import secrets_pb2 as pb
from libs.authz import ResourceAttributes
from libs.identity.grants import owner_of
from libs.rpc import MIB, SUITE, Access, Audit, Call, Caller, Resource, Service
from services.secrets.grants import GrantJudge
from services.secrets.issuance import Issuance, Issued
from services.secrets.keys import KeyRing, key_id, pseudonym_domain, signing_key_id
from services.secrets.pki import check_serial
from services.secrets.trust_board import TrustBoard
from services.secrets.trust_store import TrustStore

AREA = "secrets"
SMALL_MESSAGE = 64 * 1024
SIGN_MESSAGE = MIB + SMALL_MESSAGE


class EnrolmentServicer:
    """``EnrolmentService``: for who has no certificate yet."""

    def __init__(
        self, issuance: Issuance, board: TrustBoard, record: Callable[[str, str, str], Awaitable[None]]
    ) -> None:
        """Name the parts.

        Args:
            issuance: the use cases.
            board: learns of new bundles.
            record: writes a durable audit event of (method, SPIFFE ID, request id).
        """
        self._issuance = issuance
        self._board = board
        self._record = record

    async def enroll(self, request: pb.EnrollRequest, call: Call) -> pb.Certificate:
        """Exchange a token for a certificate."""
        issued = await asyncio.to_thread(self._issuance.enrol, request.token, request.csr_pem)
        return await self._answer("Enroll", issued, call)

    async def login(self, request: pb.LoginRequest, call: Call) -> pb.Certificate:
        """Exchange a password for a certificate."""
        issued = await asyncio.to_thread(self._issuance.log_in, request.username, request.password, request.csr_pem)
        return await self._answer("Login", issued, call)

    async def _answer(self, method: str, issued: Issued, call: Call) -> pb.Certificate:
        await self._board.show(issued[1])
        await self._record(method, issued[0].spiffe_id, call.request_id)
        return _certificate(issued)


class SecretsServicer:
    """``SecretsService``: for enrolled callers."""

    def __init__(
        self, keys: KeyRing, issuance: Issuance, trust: TrustStore, board: TrustBoard, grants: GrantJudge
    ) -> None:
        self._keys = keys
        self._issuance = issuance
        self._trust = trust
        self._board = board
        self._grants = grants

    async def renew_certificate(self, request: pb.RenewCertificateRequest, call: Call) -> pb.Certificate:
        """Sign anew for the caller's own SPIFFE ID; never for whom it acts."""
        issued = await asyncio.to_thread(self._issuance.renew, call.caller.kind, call.caller.id, request.csr_pem)
        await self._board.show(issued[1])
        return _certificate(issued)

    async def revoke_certificate(
        self, request: pb.RevokeCertificateRequest, call: Call
    ) -> pb.RevokeCertificateResponse:
        """Refuse a certificate from now on, everywhere."""
        bundle, revoke_time = await asyncio.to_thread(self._trust.revoke, check_serial(request.serial))
        await self._board.show(bundle)
        response = pb.RevokeCertificateResponse()
        response.revoke_time.FromDatetime(revoke_time)
        return response

    async def watch_trust(self, request: pb.WatchTrustRequest, call: Call) -> AsyncIterator[pb.TrustState]:
        """Stream the trust bundle."""
        async for bundle in self._board.watch():
            yield pb.TrustState(
                version=bundle.version, roots_pem=bundle.roots_pem, revoked_serials=bundle.revoked_serials
            )

    async def create_data_key(self, request: pb.CreateDataKeyRequest, call: Call) -> pb.DataKey:
        """Make a data key for the owner."""
        _require_owner(request.key, call.caller)
        plaintext, wrapped = await asyncio.to_thread(self._keys.create_data_key, request.key)
        return pb.DataKey(plaintext=plaintext, wrapped=wrapped)

    async def wrap_key(self, request: pb.WrapKeyRequest, call: Call) -> pb.WrapKeyResponse:
        """Wrap key material for the owner."""
        _require_owner(request.key, call.caller)
        return pb.WrapKeyResponse(wrapped=await asyncio.to_thread(self._keys.wrap, request.key, request.plaintext))

    async def unwrap_key(self, request: pb.UnwrapKeyRequest, call: Call) -> pb.UnwrapKeyResponse:
        """Unwrap for the owner, or for who holds its grant: ``holds_grant`` has verified that there is one."""
        if not request.grant:
            _require_owner(request.key, call.caller)
        return pb.UnwrapKeyResponse(plaintext=await asyncio.to_thread(self._keys.unwrap, request.key, request.wrapped))

    async def get_pseudonym_key(self, request: pb.GetPseudonymKeyRequest, call: Call) -> pb.PseudonymKey:
        """Return the key of a pseudonym domain; policy says to whom."""
        return pb.PseudonymKey(key=await asyncio.to_thread(self._keys.pseudonym_key, request.name))

    async def sign(self, request: pb.SignRequest, call: Call) -> pb.Signature:
        """Sign for the owner."""
        _require_owner(request.key, call.caller)
        signature, version = await asyncio.to_thread(self._keys.sign, request.key, request.payload)
        return pb.Signature(signature=signature, key_version=version)

    async def get_verification_key(self, request: pb.GetVerificationKeyRequest, call: Call) -> pb.VerificationKey:
        """Return public keys."""
        return pb.VerificationKey(public_keys=await asyncio.to_thread(self._keys.verification_keys, request.key))

    # What the chain asks ------------------------------------------------------------------------------------------------

    async def holds_grant(self, request: pb.UnwrapKeyRequest, caller: Caller) -> bool:
        """Whether the request carries a grant; one that does not hold is refused here, with its reason."""
        if not request.grant:
            return False
        await self._grants.require(request.grant, key=request.key, principal=caller.principal)
        return True

    async def describe(self, resource: Resource) -> ResourceAttributes:
        """The owner of a key is in its name."""
        return ResourceAttributes(owner=owner_of(resource.name))


def rpc_service(servicer: SecretsServicer) -> Service:
    """Return the registered service of the main port."""
    suite = Access(lambda request: [SUITE], max_message_bytes=SMALL_MESSAGE)
    return Service(
        descriptor=pb.DESCRIPTOR.services_by_name["SecretsService"],
        servicer=servicer,
        area=AREA,
        access={
            "RenewCertificate": suite,
            "RevokeCertificate": Access(_certificate_resource, max_message_bytes=SMALL_MESSAGE),
            "WatchTrust": Access(lambda request: [SUITE], Audit.NONE, max_message_bytes=SMALL_MESSAGE),
            "CreateDataKey": Access(_key_resource, max_message_bytes=SMALL_MESSAGE),
            "WrapKey": Access(_key_resource, max_message_bytes=SMALL_MESSAGE),
            "UnwrapKey": Access(_key_resource, granted=servicer.holds_grant, max_message_bytes=SMALL_MESSAGE),
            "GetPseudonymKey": Access(_pseudonym_resource, max_message_bytes=SMALL_MESSAGE),
            "Sign": Access(_signing_resource, max_message_bytes=SIGN_MESSAGE),
            "GetVerificationKey": Access(_signing_resource, Audit.BUFFERED, max_message_bytes=SMALL_MESSAGE),
        },
        describe=servicer.describe,
    )


def enrolment_service(servicer: EnrolmentServicer) -> Service:
    """Return the registered service of the enrolment port; the servicer audits what it grants."""
    access = Access(lambda request: [], Audit.NONE, max_message_bytes=SMALL_MESSAGE)
    descriptor = pb.DESCRIPTOR.services_by_name["EnrolmentService"]
    return Service(descriptor, servicer, area=AREA, access={method.name: access for method in descriptor.methods})


def _require_owner(key: str, caller: Caller) -> None:
    # Policy says so too; this holds whatever the policies are.
    if caller.kind != "service" or owner_of(key) != caller.id:
        raise PermissionDeniedError(f"only the service that owns {key} may do this", metadata={"resource": key})


def _key_resource(
    request: pb.CreateDataKeyRequest | pb.WrapKeyRequest | pb.UnwrapKeyRequest,
) -> list[Resource]:
    return [Resource("Key", f"keys/{key_id(request.key)}")]


def _signing_resource(request: pb.SignRequest | pb.GetVerificationKeyRequest) -> list[Resource]:
    return [Resource("SigningKey", f"signingKeys/{signing_key_id(request.key)}")]


def _pseudonym_resource(request: pb.GetPseudonymKeyRequest) -> list[Resource]:
    return [Resource("PseudonymKey", f"pseudonymKeys/{pseudonym_domain(request.name)}")]


def _certificate_resource(request: pb.RevokeCertificateRequest) -> list[Resource]:
    return [Resource("Certificate", f"certificates/{check_serial(request.serial)}")]


def _certificate(issued: Issued) -> pb.Certificate:
    certificate, bundle = issued
    message = pb.Certificate(
        spiffe_id=certificate.spiffe_id,
        chain_pem=certificate.chain_pem,
        roots_pem=bundle.roots_pem,
        serial=certificate.serial,
    )
    message.expire_time.FromDatetime(certificate.expire_time)
    return message
