"""Seals what the register of erasures keeps of a subject, where the database does not encrypt its files itself."""

from __future__ import annotations

import secrets
from dataclasses import replace

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hedgerow.errors import DataLossError
from services.governance.erasure import ErasureRequest

_NONCE = 12


class RegisterSeal:
    """AES-256-GCM over a subject's pseudonym and the receipt, which repeats it; each bound to its request and field."""

    def __init__(self, key: bytes) -> None:
        """Take a key of 32 bytes."""
        self._cipher = AESGCM(key)

    def close(self, request: ErasureRequest) -> ErasureRequest:
        """Return a request as it is kept."""
        return replace(
            request,
            subject_hash=self._seal(request.subject_hash.encode(), request.id, "subject").hex(),
            receipt=self._seal(request.receipt, request.id, "receipt"),
        )

    def open(self, kept: ErasureRequest) -> ErasureRequest:
        """Return a request from how it is kept.

        Raises:
            DataLossError: it was changed.
        """
        try:
            return replace(
                kept,
                subject_hash=self._open(bytes.fromhex(kept.subject_hash), kept.id, "subject").decode(),
                receipt=self._open(kept.receipt, kept.id, "receipt"),
            )
        except (InvalidTag, ValueError):
            raise DataLossError(
                "a kept erasure request does not authenticate", metadata={"resource": f"erasureRequests/{kept.id}"}
            ) from None

    def _seal(self, plaintext: bytes, request_id: str, field: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return nonce + self._cipher.encrypt(nonce, plaintext, _context(request_id, field))

    def _open(self, sealed: bytes, request_id: str, field: str) -> bytes:
        return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _context(request_id, field))


def _context(request_id: str, field: str) -> bytes:
    return f"hedgerow erasure register 1/{request_id}/{field}".encode()
