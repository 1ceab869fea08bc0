"""Data keys, signing keys and pseudonym keys: made at first use, kept in the secret server, never exported from it.

The owner of ``keys/<service>-…`` and ``signingKeys/<service>-…`` is the service whose name comes before the first ``-``.
"""

from __future__ import annotations

import base64
import contextlib
import os
from collections.abc import Mapping
from typing import Any

from hedgerow import names
from hedgerow.errors import InvalidArgumentError, NotFoundError
from services.secrets.vault import Vault, VaultPathError, VaultRefusedError, VaultRequestError

KEY_BYTES = 32
MAX_WRAPPED_PLAINTEXT = 512
MAX_WRAPPED_BYTES = 4096
MAX_PAYLOAD_BYTES = 1024 * 1024
_KEYS = "transit-keys"
_SIGNING = "transit-signing"


def key_id(name: str) -> str:
    """Return the id in ``keys/{key}``; raises InvalidArgumentError."""
    return names.parse("keys/{key}", name, field="key")["key"]


def signing_key_id(name: str) -> str:
    """Return the id in ``signingKeys/{key}``; raises InvalidArgumentError."""
    return names.parse("signingKeys/{key}", name, field="key")["key"]


def pseudonym_domain(name: str) -> str:
    """Return the id in ``pseudonymKeys/{domain}``; raises InvalidArgumentError."""
    return names.parse("pseudonymKeys/{domain}", name, field="name")["domain"]


class KeyRing:
    """The keys of the suite. Its methods block and raise the errors of ``Vault``."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    def create_data_key(self, name: str) -> tuple[bytes, bytes]:
        """Return 32 random bytes, in clear and wrapped."""
        plaintext = os.urandom(KEY_BYTES)
        return plaintext, self.wrap(name, plaintext)

    def wrap(self, name: str, plaintext: bytes) -> bytes:
        """Return 1 to 512 bytes of key material wrapped under a key."""
        if not 0 < len(plaintext) <= MAX_WRAPPED_PLAINTEXT:
            raise _bad("plaintext", f"expected 1 to {MAX_WRAPPED_PLAINTEXT} bytes")
        # Encrypting under a key that does not exist makes it, of this type.
        data = {"plaintext": _encode(plaintext), "type": "aes256-gcm96"}
        answer = self._vault.write(f"{_KEYS}/encrypt/{key_id(name)}", data)
        return str(answer["ciphertext"]).encode()

    def unwrap(self, name: str, wrapped: bytes) -> bytes:
        """Return wrapped key material in clear.

        Raises:
            NotFoundError: there is no such key.
            InvalidArgumentError: the bytes were not wrapped under it, or were changed.
        """
        if not 0 < len(wrapped) <= MAX_WRAPPED_BYTES or not wrapped.isascii():
            raise _bad("wrapped", "expected what WrapKey or CreateDataKey returned")
        try:
            answer = self._vault.write(f"{_KEYS}/decrypt/{key_id(name)}", {"ciphertext": wrapped.decode()})
        except VaultRequestError as error:
            if _is_missing_key(error):
                raise NotFoundError(f"{name} does not exist", metadata={"resource": name}) from error
            raise _bad("wrapped", "it was not wrapped under this key, or was changed") from error
        return base64.b64decode(answer["plaintext"])

    def pseudonym_key(self, name: str) -> bytes:
        """Return the 32-byte HMAC key of a pseudonym domain; of two that ask first, both get the same."""
        record = f"pseudonym/{pseudonym_domain(name)}"
        stored = self._vault.read_record(record)
        if stored is None:
            # The policy permits creating alone, so that no key is ever overwritten: who comes second is refused. Read
            # again whoever won: what is stored is the key.
            with contextlib.suppress(VaultRefusedError):
                self._vault.write_record(record, {"key": _encode(os.urandom(KEY_BYTES))}, expected_version=0)
            stored = self._vault.read_record(record)
        if stored is None:
            raise NotFoundError(
                f"{name} was destroyed; its pseudonyms cannot be made again", metadata={"resource": name}
            )
        return base64.b64decode(stored[0]["key"])

    def sign(self, name: str, payload: bytes) -> tuple[bytes, int]:
        """Return the ed25519 signature of 1 byte to 1 MiB and the version of the key that made it."""
        if not 0 < len(payload) <= MAX_PAYLOAD_BYTES:
            raise _bad("payload", f"expected 1 to {MAX_PAYLOAD_BYTES} bytes; sign a digest of anything larger")
        answer = self._sign(signing_key_id(name), {"input": _encode(payload)})
        # "vault:v<version>:<base64>"
        _, version, signature = str(answer["signature"]).split(":")
        return base64.b64decode(signature), int(version.removeprefix("v"))

    def verification_keys(self, name: str) -> dict[int, bytes]:
        """Return the raw public keys of a signing key by version.

        Raises:
            NotFoundError: there is no such key.
        """
        try:
            answer = self._vault.read(f"{_SIGNING}/keys/{signing_key_id(name)}")
        except VaultPathError as error:
            raise NotFoundError(f"{name} does not exist", metadata={"resource": name}) from error
        return {int(version): base64.b64decode(key["public_key"]) for version, key in answer["keys"].items()}

    def _sign(self, key: str, data: Mapping[str, str]) -> dict[str, Any]:
        try:
            return self._vault.write(f"{_SIGNING}/sign/{key}", data)
        except VaultRequestError as error:
            if not _is_missing_key(error):
                raise
        # First use. Making a key that exists changes nothing, so two that come first do no harm.
        self._vault.write(f"{_SIGNING}/keys/{key}", {"type": "ed25519"})
        return self._vault.write(f"{_SIGNING}/sign/{key}", data)


def _is_missing_key(error: VaultRequestError) -> bool:
    return "key not found" in error.details


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _bad(field: str, what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"{field} is not acceptable: {what}", fields={field: what})
