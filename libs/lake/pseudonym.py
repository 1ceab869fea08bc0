"""Pseudonyms: the keyed hash that stands for an identifier within one domain.

A pseudonym is the first 16 bytes of HMAC-SHA-256(key of the domain, UTF-8 value) as 32 lower-case hexadecimal
characters. It is stable within a domain, unlinkable across domains, and means nothing once the key is destroyed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

MIN_KEY_BYTES = 32
HEX_CHARACTERS = 32
_BLOCK_BYTES = 64


def pseudonym(key: bytes, value: str) -> str:
    """Return the pseudonym of one value: 32 lower-case hexadecimal characters.

    Raises:
        ValueError: the key is shorter than 32 bytes.
    """
    return _hash_all(key, [value.encode()])[0]


def pseudonym_column(key: bytes, column: pa.Array) -> pa.StringArray:
    """Return the pseudonyms of a column of text; nulls stay null.

    Args:
        key: the key of the domain, at least 32 bytes.
        column: any Arrow text type, or a dictionary of one; each distinct value is hashed once.

    Raises:
        ValueError: the key is shorter than 32 bytes.
    """
    encoded = column if pa.types.is_dictionary(column.type) else column.cast(pa.large_string()).dictionary_encode()
    distinct = encoded.dictionary.cast(pa.large_string())
    known = distinct.is_valid()
    hashed = _hash_all(key, distinct.filter(known).cast(pa.large_binary()).to_pylist())
    pseudonyms = pa.array(hashed, type=pa.string())
    if distinct.null_count:
        pseudonyms = pc.replace_with_mask(pa.nulls(len(distinct), pa.string()), known, pseudonyms)
    return pseudonyms.take(encoded.indices)


def _hash_all(key: bytes, values: Iterable[bytes]) -> list[str]:
    """Return the pseudonym of each value: HMAC with the key absorbed once, two copied hash states a value."""
    if len(key) < MIN_KEY_BYTES:
        raise ValueError(f"a pseudonym key has at least {MIN_KEY_BYTES} bytes")
    block = (hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
    inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block)).copy
    outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block)).copy
    pseudonyms = []
    for value in values:
        first, second = inner(), outer()
        first.update(value)
        second.update(first.digest())
        pseudonyms.append(second.hexdigest()[:HEX_CHARACTERS])
    return pseudonyms
