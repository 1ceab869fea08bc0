"""Record framing and the SHA-256 hash chain, over the stored bytes. Pure.

A frame is `length (u32, little endian) | record | chain hash (32 bytes)`. The chain hash of a record is
SHA-256(previous chain hash | leaf hash), where the leaf hash is that of RFC 6962: SHA-256(0x00 | record).
"""

import struct
from hashlib import sha256
from typing import NamedTuple

HASH_BYTES = 32
ZERO_HASH = bytes(HASH_BYTES)
MAX_RECORD_BYTES = 128 * 1024

_LENGTH = struct.Struct("<I")


class Frame(NamedTuple):
    """One frame as it was read."""

    record: bytes
    chain_hash: bytes
    end: int
    """Offset of the first byte behind the frame."""


class FrameError(ValueError):
    """The bytes at an offset are not a whole frame."""


def leaf_hash(record: bytes) -> bytes:
    """The RFC 6962 leaf hash of a record."""
    return sha256(b"\x00" + record).digest()


def header_hash(header: bytes) -> bytes:
    """The hash of a segment header; its prefix keeps it apart from leaves (0x00) and tree nodes (0x01)."""
    return sha256(b"\x02" + header).digest()


def link(previous: bytes, item: bytes) -> bytes:
    """The chain hash behind `previous` for an item hash."""
    return sha256(previous + item).digest()


def frame(record: bytes, chain_hash: bytes) -> bytes:
    """Returns the bytes to store."""
    return b"".join((_LENGTH.pack(len(record)), record, chain_hash))


def read_frame(content: bytes, offset: int) -> Frame:
    """Reads the frame at `offset`. Raises FrameError when it is cut short or its length is absurd."""
    body = offset + _LENGTH.size
    if body > len(content):
        raise FrameError("the frame's length is cut short")
    (length,) = _LENGTH.unpack_from(content, offset)
    end = body + length + HASH_BYTES
    if length > MAX_RECORD_BYTES or end > len(content):
        raise FrameError("the frame is cut short or its length was changed")
    return Frame(content[body : body + length], content[body + length : end], end)
