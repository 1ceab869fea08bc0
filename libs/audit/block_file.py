"""The encrypted file that holds a segment on the disk of its writer: one AES-256-GCM block per group commit.

`HRBLOCK1 | salt (16 bytes) | block | …`, a block being `length (u32) | nonce (12 bytes) | ciphertext and tag`. The
key is HMAC-SHA-256(data key, salt and segment name), so a file cannot pass for another; a block's associated data is its
number, so blocks cannot be moved. Nonces are random, and a segment has far fewer than 2^32 blocks.
"""

import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32

_MAGIC = b"HRBLOCK1"
_SALT_BYTES = 16
_NONCE_BYTES = 12
_TAG_BYTES = 16
_LENGTH = struct.Struct("<I")
_HEADER_BYTES = len(_MAGIC) + _SALT_BYTES


@dataclass(frozen=True, slots=True)
class Disk:
    """The system calls that a block file makes; tests put failing ones in their place."""

    write: Callable[[int, bytes], int] = os.write
    fdatasync: Callable[[int], None] = os.fdatasync
    ftruncate: Callable[[int, int], None] = os.ftruncate


@dataclass(frozen=True, slots=True)
class BlockFileContent:
    """What a block file holds."""

    content: bytes
    """The segment's bytes: all whole blocks, in order."""
    whole_bytes: int
    """Length of the file up to the end of its last whole block; 0 when not even the first block is whole."""
    torn_bytes: int
    """Bytes behind that: what a crash in the middle of a write leaves."""
    block_count: int


class BlockFileError(ValueError):
    """A block in the middle of the file does not authenticate: it was changed, or the key is another."""

    def __init__(self, reason: str, content: bytes = b"") -> None:
        """`content` is that of the blocks before."""
        super().__init__(reason)
        self.content = content


class BlockFile:
    """Appends blocks; every method blocks and belongs in the writer's thread."""

    def __init__(self, path: Path, name: str, data_key: bytes, disk: Disk) -> None:
        """Opens the file, or begins it when absent. Use `recover` before appending to an existing file."""
        self.path = path
        self._disk = disk
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._descriptor).st_size
        self._blocks = 0
        self._clean = True
        self._name = name
        self._data_key = data_key
        self._cipher: AESGCM | None = None

    def recover(self, found: BlockFileContent) -> None:
        """Goes on behind what `read_block_file` found, and cuts the torn tail. Raises OSError."""
        salt = os.pread(self._descriptor, _SALT_BYTES, len(_MAGIC))
        self._cipher = AESGCM(_file_key(self._data_key, salt, self._name))
        self._size, self._blocks = found.whole_bytes, found.block_count
        self._disk.ftruncate(self._descriptor, self._size)
        self._disk.fdatasync(self._descriptor)

    def append(self, content: bytes) -> None:
        """Writes one block and waits until it is on the disk. Raises OSError: the file is then as before.

        A failed fdatasync may have dropped the pages it could not write, so what it covered is never trusted: the
        next attempt cuts the file back and writes anew.
        """
        self.cut_back()
        self._clean = False
        data = self._next_block(content)
        os.lseek(self._descriptor, self._size, os.SEEK_SET)
        rest = data
        while rest:
            rest = rest[self._disk.write(self._descriptor, rest) :]
        self._disk.fdatasync(self._descriptor)
        if self._size == 0:
            sync_directory(self.path.parent)
        self._size += len(data)
        self._blocks += 1
        self._clean = True

    def cut_back(self) -> None:
        """Cuts off a block that failed. Raises OSError."""
        if not self._clean:
            self._disk.ftruncate(self._descriptor, self._size)
            self._clean = True

    def close(self) -> None:
        """Closes the file as it stands."""
        os.close(self._descriptor)

    def _next_block(self, content: bytes) -> bytes:
        start = b""
        if self._size == 0:
            salt = os.urandom(_SALT_BYTES)
            self._cipher = AESGCM(_file_key(self._data_key, salt, self._name))
            start = _MAGIC + salt
        assert self._cipher is not None, "recover() comes before append() on an existing file"
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher.encrypt(nonce, content, _LENGTH.pack(self._blocks))
        return b"".join((start, _LENGTH.pack(len(sealed)), nonce, sealed))


def read_block_file(path: Path, name: str, data_key: bytes) -> BlockFileContent:
    """Reads and decrypts a file. A broken last block is a torn tail. Raises BlockFileError, OSError."""
    data = path.read_bytes()
    if len(data) < _HEADER_BYTES:
        return BlockFileContent(b"", 0, len(data), 0)
    if not data.startswith(_MAGIC):
        if not any(data):  # a crash may leave the length of a write without its bytes
            return BlockFileContent(b"", 0, len(data), 0)
        raise BlockFileError("the file is not an audit segment of this version")
    cipher = AESGCM(_file_key(data_key, data[len(_MAGIC) : _HEADER_BYTES], name))
    blocks: list[bytes] = []
    offset = _HEADER_BYTES
    while offset + _LENGTH.size + _NONCE_BYTES <= len(data):
        (length,) = _LENGTH.unpack_from(data, offset)
        body = offset + _LENGTH.size + _NONCE_BYTES
        end = body + length
        if length <= _TAG_BYTES or end > len(data):
            break
        try:
            blocks.append(_open_block(data, offset, end, len(blocks), cipher))
        except InvalidTag:
            break
        offset = end
    if _holds_block(data, offset + 1, len(blocks) + 1, cipher):
        raise BlockFileError(f"block {len(blocks)} of the file does not authenticate", b"".join(blocks))
    whole = offset if blocks else 0
    return BlockFileContent(b"".join(blocks), whole, len(data) - whole, len(blocks))


def _open_block(data: bytes, offset: int, end: int, number: int, cipher: AESGCM) -> bytes:
    body = offset + _LENGTH.size + _NONCE_BYTES
    return cipher.decrypt(data[body - _NONCE_BYTES : body], data[body:end], _LENGTH.pack(number))


def _holds_block(data: bytes, start: int, number: int, cipher: AESGCM) -> bool:
    """Whether block `number` stands whole anywhere from `start` on.

    That tells a changed block from a torn one: behind the tail of an interrupted write there is nothing. Nearly every
    offset is dismissed by its absurd length, so the search stays cheap.
    """
    for offset in range(start, len(data) - _LENGTH.size - _NONCE_BYTES - _TAG_BYTES):
        (length,) = _LENGTH.unpack_from(data, offset)
        end = offset + _LENGTH.size + _NONCE_BYTES + length
        if length <= _TAG_BYTES or end > len(data):
            continue
        try:
            _open_block(data, offset, end, number, cipher)
        except InvalidTag:
            continue
        return True
    return False


def sync_directory(directory: Path) -> None:
    """Makes new, renamed and removed entries of a directory durable. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _file_key(data_key: bytes, salt: bytes, name: str) -> bytes:
    if len(data_key) != KEY_BYTES:
        raise ValueError(f"the audit data key has {len(data_key)} bytes; it must have {KEY_BYTES}")
    return hmac.digest(data_key, b"hedgerow audit segment\n" + salt + name.encode(), sha256)
