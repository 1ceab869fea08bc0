"""Keys and signatures from the secrets service."""

from __future__ import annotations

from typing import Protocol

from hedgerow.client import ServiceClient
from hedgerow.secrets.v1 import secrets_pb2 as pb

TIMEOUT = 10.0


class Secrets(Protocol):
    """Keys and signatures, wherever they come from.

    Implemented by ``SecretsClient`` over gRPC, and inside the secrets service by the store itself. All methods raise
    PermissionDeniedError, NotFoundError or UnavailableError.
    """

    async def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        """Return 32 fresh bytes and the same bytes wrapped under ``keys/{key}``."""

    async def wrap(self, key: str, plaintext: bytes) -> bytes:
        """Return key material wrapped under ``keys/{key}``."""

    async def unwrap(self, key: str, wrapped: bytes, grant: str = "") -> bytes:
        """Return key material in clear: for its owner, or on the strength of a grant."""

    async def pseudonym_key(self, domain: str) -> bytes:
        """Return the 32-byte HMAC key of a pseudonym domain."""

    async def sign(self, key: str, payload: bytes) -> tuple[bytes, int]:
        """Return the ed25519 signature of ``signingKeys/{key}`` and the key's version."""

    async def verification_keys(self, key: str) -> dict[int, bytes]:
        """Return the raw public keys of ``signingKeys/{key}`` by version."""


class SecretsClient:
    """``Secrets`` over gRPC. Keys are named in full, as in ``keys/features-sql``."""

    def __init__(self, client: ServiceClient) -> None:
        self._client = client

    async def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        """See ``Secrets``."""
        answer = await self._client.call("CreateDataKey", pb.CreateDataKeyRequest(key=key), timeout=TIMEOUT)
        return answer.plaintext, answer.wrapped

    async def wrap(self, key: str, plaintext: bytes) -> bytes:
        """See ``Secrets``."""
        request = pb.WrapKeyRequest(key=key, plaintext=plaintext)
        answer = await self._client.call("WrapKey", request, timeout=TIMEOUT)
        wrapped: bytes = answer.wrapped
        return wrapped

    async def unwrap(self, key: str, wrapped: bytes, grant: str = "") -> bytes:
        """See ``Secrets``."""
        request = pb.UnwrapKeyRequest(key=key, wrapped=wrapped, grant=grant)
        answer = await self._client.call("UnwrapKey", request, timeout=TIMEOUT)
        plaintext: bytes = answer.plaintext
        return plaintext

    async def pseudonym_key(self, domain: str) -> bytes:
        """See ``Secrets``."""
        request = pb.GetPseudonymKeyRequest(name=f"pseudonymKeys/{domain}")
        answer = await self._client.call("GetPseudonymKey", request, timeout=TIMEOUT)
        key: bytes = answer.key
        return key

    async def sign(self, key: str, payload: bytes) -> tuple[bytes, int]:
        """See ``Secrets``."""
        answer = await self._client.call("Sign", pb.SignRequest(key=key, payload=payload), timeout=TIMEOUT)
        return answer.signature, answer.key_version

    async def verification_keys(self, key: str) -> dict[int, bytes]:
        """See ``Secrets``."""
        request = pb.GetVerificationKeyRequest(key=key)
        answer = await self._client.call("GetVerificationKey", request, timeout=TIMEOUT)
        return dict(answer.public_keys)
