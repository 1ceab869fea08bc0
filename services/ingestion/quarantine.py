"""Seals quarantined rows: AES-256-GCM under a data key per dataset, bound to the place of the row."""

from __future__ import annotations

import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hedgerow.errors import DataLossError
from services.ingestion.dataset import SealedRow
from services.ingestion.records import QuarantinedRow

_NONCE_BYTES = 12


class Quarantine:
    """Seals and searches the quarantined rows of one dataset."""

    def __init__(self, dataset_id: str, key: bytes) -> None:
        """Take the dataset's data key: 32 bytes."""
        self._dataset_id = dataset_id
        self._cipher = AESGCM(key)

    def seal(self, request_id: str, row: QuarantinedRow) -> SealedRow:
        """Return a row ready to be stored."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, row.content, self._place(request_id, row.row_index))
        return SealedRow(row.row_index, row.reason, nonce + sealed)

    def holds(self, request_id: str, row: SealedRow, pseudonym: str) -> bool:
        """Return whether a value of a stored row is the pseudonym.

        Raises:
            DataLossError: the row was changed or moved.
        """
        nonce, sealed = row.content[:_NONCE_BYTES], row.content[_NONCE_BYTES:]
        try:
            content = self._cipher.decrypt(nonce, sealed, self._place(request_id, row.row_index))
        except InvalidTag as error:
            raise DataLossError("a quarantined row does not authenticate") from error
        return pseudonym in json.loads(content).values()

    def _place(self, request_id: str, row_index: int) -> bytes:
        return f"{self._dataset_id}/{request_id}/{row_index}".encode()
