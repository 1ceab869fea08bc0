"""The form of keys and values in the online store, the same for every engine.

Key: HMAC-SHA-256 of the entity under a key of the view, 32 bytes, so that neither entities nor their presence in two
views can be told from the store. Value: format (1 byte), schema version (8), nonce (12), then AES-256-GCM over event
time (int64 µs), as-of time (int64 µs) and the features (float64), little-endian; the associated data is the view, the
schema version and the key. A value moved to another entity, view or schema does not open.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from hedgerow.errors import DataLossError
from services.features.online_store import StoredView, Values

_FORMAT = b"\x01"
_NONCE = 12
STAMP_BYTES = 16
_NO_EVENT = int(np.iinfo(np.int64).min)


class Sealing:
    """Makes keys and seals values of all views from one 32-byte key.

    Each view has keys of its own, derived by HKDF. A random nonce may repeat with noticeable chance only after 2^32
    values under one key, so that is the bound on writes per view.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) != 32:
            raise ValueError("the online store key must have 32 bytes")
        self._key = key
        self._views: dict[str, tuple[hmac.HMAC, AESGCM]] = {}

    def entity_keys(self, view_id: str, entities: Sequence[str]) -> list[bytes]:
        """Return the engine's keys of entities."""
        keyed, _ = self._of(view_id)
        keys = []
        for entity in entities:
            # A copy has the key absorbed already, which is a third of the cost.
            mac = keyed.copy()
            mac.update(entity.encode())
            keys.append(mac.digest())
        return keys

    def seal(self, view: StoredView, key: bytes, plain: bytes) -> bytes:
        """Return the engine's value.

        Args:
            view: whose value it is.
            key: the engine's key it is stored under.
            plain: as `pack` made it.
        """
        _, cipher = self._of(view.view_id)
        nonce = secrets.token_bytes(_NONCE)
        return _header(view) + nonce + cipher.encrypt(nonce, plain, _context(view) + key)

    def open(self, view: StoredView, keys: Sequence[bytes], stored: Sequence[bytes | None]) -> list[bytes | None]:
        """Return what was sealed under each key; None where nothing is stored or under another format or schema.

        Raises:
            DataLossError: a value does not authenticate.
        """
        # The hot loop of online reads: 1 µs a value, of which decryption is two thirds.
        decrypt = self._of(view.view_id)[1].decrypt
        header, context = _header(view), _context(view)
        body = len(header) + _NONCE
        nonce = slice(len(header), body)
        try:
            return [
                decrypt(value[nonce], value[body:], context + key)
                if value is not None and value.startswith(header)
                else None
                for key, value in zip(keys, stored, strict=True)
            ]
        except InvalidTag as error:
            raise DataLossError(
                f"a stored value of featureViews/{view.view_id} does not authenticate; materialize the view again"
            ) from error

    def _of(self, view_id: str) -> tuple[hmac.HMAC, AESGCM]:
        known = self._views.get(view_id)
        if known is None:
            known = self._views[view_id] = (
                hmac.new(self._derive(f"online entity keys of {view_id}"), digestmod="sha256"),
                AESGCM(self._derive(f"online values of {view_id}")),
            )
        return known

    def _derive(self, info: str) -> bytes:
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info.encode()).derive(self._key)


def pack(event_us: npt.NDArray[np.int64], as_of_us: int, values: npt.NDArray[np.float64]) -> list[bytes]:
    """Return the plaintext of each row: stamps, then features."""
    block = np.empty((len(values), values.shape[1] + 2), dtype="<f8")
    stamps = block[:, :2].view("<i8")
    stamps[:, 0] = event_us
    stamps[:, 1] = as_of_us
    block[:, 2:] = values
    return [row.tobytes() for row in block]


def block_of(plains: Sequence[bytes | None], width: int) -> Values:
    """Return the values of plaintexts as `OnlineStore.read` does: NaN, and the least event time, where there is none."""
    absent = _NO_EVENT.to_bytes(8, "little", signed=True) + bytes(8) + b"\0\0\0\0\0\0\xf8\x7f" * width
    content = b"".join(plain or absent for plain in plains)
    block = np.frombuffer(content, dtype="<f8").reshape(len(plains), width + STAMP_BYTES // 8)
    return Values(block[:, 2:], block[:, :1].view("<i8")[:, 0])


def stamp(plain: bytes) -> tuple[int, int]:
    """Return (event time, as-of time) of a plaintext; their order is the order of newness."""
    return int.from_bytes(plain[:8], "little", signed=True), int.from_bytes(plain[8:16], "little", signed=True)


def _header(view: StoredView) -> bytes:
    return _FORMAT + view.schema_version


def _context(view: StoredView) -> bytes:
    """The associated data of a value, before its key."""
    return view.view_id.encode() + b"\0" + view.schema_version
