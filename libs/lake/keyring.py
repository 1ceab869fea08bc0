"""Keys of the lake: 256-bit data keys per column chunk, wrapped by key-encryption keys, wrapped by the key service.

pyarrow's own double wrapping uses 128-bit key-encryption keys whatever the length of the data keys. This one keeps
256 bits on every level: each data key is sealed here with AES-256-GCM under a 32-byte key-encryption key, which alone
the key service wraps. The service is asked once per key and lifetime when writing, and once per key-encryption key when
reading.
"""

from __future__ import annotations

import base64
import binascii
import datetime as dt
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from pyarrow.parquet import encryption as pe

from hedgerow.errors import DataLossError, InvalidArgumentError, NotFoundError, PermissionDeniedError
from libs.lake.layout import TableLayout

V = TypeVar("V")

Wrap = Callable[[str, bytes], bytes]
"""Wraps key material under a named key. Blocks; called from worker threads."""
Unwrap = Callable[[str, bytes], bytes]
"""Unwraps key material under a named key. Blocks; called from worker threads."""

_KEY_BYTES = 32
_NONCE_BYTES = 12
_FORMAT = "h1"


class Envelope:
    """Seals and opens data keys under key-encryption keys that are held in clear for a while.

    It knows nothing of pyarrow: pyarrow holds it, and a reference back would keep the keys alive for good.
    """

    def __init__(
        self, *, unwrap: Unwrap, wrap: Wrap | None, lifetime: float, capacity: int, clock: Callable[[], float]
    ) -> None:
        self._wrap = wrap
        self._unwrap = unwrap
        self._writing = _Expiring[tuple[bytes, bytes]](lifetime, capacity, clock)
        self._reading = _Expiring[bytes](lifetime, capacity, clock)

    def seal(self, key_name: str, data_key: bytes) -> str:
        """Return a data key sealed under a named key.

        Raises:
            PermissionDeniedError: this ring only reads.
            HedgerowError: whatever the key service raises.
        """
        if self._wrap is None:
            raise PermissionDeniedError("this key ring only reads", metadata={"key": key_name})
        held = self._writing.get(key_name)
        if held is None:
            fresh = AESGCM.generate_key(_KEY_BYTES * 8)
            held = fresh, self._wrap(key_name, fresh)
            self._writing.put(key_name, held)
        key_encryption_key, wrapped = held
        nonce = os.urandom(_NONCE_BYTES)
        sealed = nonce + AESGCM(key_encryption_key).encrypt(nonce, data_key, key_name.encode())
        return ".".join((_FORMAT, base64.b64encode(wrapped).decode(), base64.b64encode(sealed).decode()))

    def open(self, key_name: str, text: str) -> bytes:
        """Return the data key that ``seal`` sealed.

        Raises:
            DataLossError: the text was changed or sealed under another key.
            PermissionDeniedError: the key service refuses this key; the metadata names it.
            HedgerowError: whatever else the key service raises.
        """
        try:
            version, wrapped_text, sealed_text = text.split(".")
            wrapped = base64.b64decode(wrapped_text, validate=True)
            sealed = base64.b64decode(sealed_text, validate=True)
        except (ValueError, binascii.Error) as error:
            raise _corrupt() from error
        if version != _FORMAT:
            raise _corrupt()
        key_encryption_key = self._unwrapped(key_name, wrapped)
        try:
            return AESGCM(key_encryption_key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], key_name.encode())
        except (InvalidTag, ValueError) as error:
            raise _corrupt() from error

    def _unwrapped(self, key_name: str, wrapped: bytes) -> bytes:
        cache_key = f"{key_name}\0{wrapped.hex()}"
        key = self._reading.get(cache_key)
        if key is None:
            try:
                key = self._unwrap(key_name, wrapped)
            except (InvalidArgumentError, NotFoundError) as error:
                # The name and the wrapped bytes come from the file, so a key service that cannot make sense of them
                # tells of a changed file, not of a wrong request.
                raise _corrupt() from error
            except PermissionDeniedError as error:
                raise PermissionDeniedError(
                    f"columns sealed under {key_name} are refused: {error.message}",
                    reason=error.reason,
                    metadata={**error.metadata, "key": key_name},
                ) from error
            self._reading.put(cache_key, key)
        return key


class Keyring:
    """Makes the encryption and decryption properties of Parquet files.

    Keys in clear stay in memory for ``lifetime`` seconds at most and never more than ``capacity`` of them. A reader
    that holds a grant makes its own ring, so that what it unwrapped dies with it.
    """

    def __init__(
        self,
        *,
        unwrap: Unwrap,
        wrap: Wrap | None = None,
        lifetime: float = 600.0,
        capacity: int = 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        envelope = Envelope(unwrap=unwrap, wrap=wrap, lifetime=lifetime, capacity=capacity, clock=clock)
        self._lifetime = dt.timedelta(seconds=lifetime)
        self._factory = pe.CryptoFactory(lambda _config: _KeyService(envelope))
        self._connection = pe.KmsConnectionConfig()

    def encryption(self, layout: TableLayout) -> object:
        """Return the encryption properties of one new file of a table."""
        configuration = pe.EncryptionConfiguration(
            footer_key=layout.footer_key,
            column_keys=layout.columns_by_key(),
            encryption_algorithm="AES_GCM_V1",
            plaintext_footer=False,
            double_wrapping=False,  # done here, with 256 bits
            internal_key_material=True,
            data_key_length_bits=256,
            cache_lifetime=self._lifetime,
        )
        return self._factory.file_encryption_properties(self._connection, configuration)

    def decryption(self) -> object:
        """Return the decryption properties of one file."""
        configuration = pe.DecryptionConfiguration(cache_lifetime=self._lifetime)
        return self._factory.file_decryption_properties(self._connection, configuration)


class _KeyService(pe.KmsClient):  # type: ignore[misc]  # pyarrow ships no types
    """What pyarrow asks for keys."""

    def __init__(self, envelope: Envelope) -> None:
        super().__init__()
        self._envelope = envelope

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        return self._envelope.seal(master_key_identifier, key_bytes).encode()

    def unwrap_key(self, wrapped_key: str | bytes, master_key_identifier: str) -> bytes:
        text = wrapped_key.decode() if isinstance(wrapped_key, bytes) else wrapped_key
        return self._envelope.open(master_key_identifier, text)


class _Expiring(Generic[V]):
    """A small cache: bounded in number, least recently used first out, and bounded in age. Safe for threads."""

    def __init__(self, lifetime: float, capacity: int, clock: Callable[[], float]) -> None:
        self._lifetime = lifetime
        self._capacity = capacity
        self._clock = clock
        self._lock = threading.Lock()
        self._held: OrderedDict[str, tuple[float, V]] = OrderedDict()

    def get(self, key: str) -> V | None:
        with self._lock:
            entry = self._held.get(key)
            if entry is None:
                return None
            if entry[0] <= self._clock():
                del self._held[key]
                return None
            self._held.move_to_end(key)
            return entry[1]

    def put(self, key: str, value: V) -> None:
        with self._lock:
            self._held[key] = (self._clock() + self._lifetime, value)
            self._held.move_to_end(key)
            while len(self._held) > self._capacity:
                self._held.popitem(last=False)


def _corrupt() -> DataLossError:
    return DataLossError("a file's keys do not authenticate: the file was changed, or sealed under another key")
