"""Training sets at rest: one sealed file each, in frames of AES-256-GCM.

A file is a magic line, the length of the wrapped data key (2 bytes) and the key, then frames: the length of the sealed
bytes (4 bytes), a nonce (12 bytes), and the sealed bytes. The associated data of a frame names the training set, the
wrapped key, the frame's position and whether it is the last, so that a frame moved, dropped, doubled or taken from
another set does not open, and neither does a file cut short. Every write has a data key of its own and replaces the
file as a whole; a subject is erased by such a rewrite.
"""

from __future__ import annotations

import os
import secrets
import struct
from collections.abc import Iterable, Iterator
from io import BufferedReader
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hedgerow.errors import DataLossError, NotFoundError
from services.features.held_files import HeldFiles

MAGIC = b"hedgerow training set 1\n"
MAX_SEALED = 64 * 1024 * 1024
_SUFFIX = ".sealed"
_NONCE = 12


class TrainingSetFiles:
    """The files of all training sets in one folder. Keys are the caller's affair: it wraps and unwraps them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        # Held while it is written; replicas that share the folder tell by it which ones a crash left behind.
        self._partials = HeldFiles(folder.with_name(f"{folder.name}-partial"))
        self._partials.abandoned()

    def ids(self) -> list[str]:
        """Return the ids of the training sets that have a file, sorted."""
        return sorted(path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"*{_SUFFIX}"))

    def write(self, training_set_id: str, key: bytes, wrapped_key: bytes, frames: Iterable[bytes]) -> None:
        """Write or replace a file; it is durable and complete when this returns, or unchanged when this raises.

        Args:
            training_set_id: a checked id.
            key: 32 bytes, used for this file alone.
            wrapped_key: the same key as the secrets service wrapped it.
            frames: the plaintext of each frame; at least one.
        """
        path = self._path(training_set_id)
        with self._partials.hold(training_set_id) as partial:
            with partial.open("wb") as file:
                file.write(MAGIC + struct.pack("<H", len(wrapped_key)) + wrapped_key)
                cipher = AESGCM(key)
                for index, (frame, last) in enumerate(_with_last(frames)):
                    nonce = secrets.token_bytes(_NONCE)
                    sealed = cipher.encrypt(nonce, frame, _context(training_set_id, wrapped_key, index, last))
                    file.write(struct.pack("<I", len(sealed)) + nonce + sealed)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        self._sync_folder()

    def wrapped_key(self, training_set_id: str) -> bytes:
        """Return the wrapped data key of a file.

        Raises:
            NotFoundError: there is no such file.
            DataLossError: the file does not start as it should.
        """
        with self._open(training_set_id) as file:
            return _read_header(file, training_set_id)

    def read(self, training_set_id: str, key: bytes) -> Iterator[bytes]:
        """Yield the plaintext of each frame. A file replaced meanwhile is read to its old end.

        Raises:
            NotFoundError: there is no such file.
            DataLossError: a frame does not authenticate, or frames are missing.
        """
        with self._open(training_set_id) as file:
            wrapped_key = _read_header(file, training_set_id)
            cipher = AESGCM(key)
            index, last = 0, False
            prefix = file.read(4)
            while prefix:
                nonce, sealed = _read_frame(file, prefix, training_set_id)
                prefix = file.read(4)
                last = not prefix
                try:
                    yield cipher.decrypt(nonce, sealed, _context(training_set_id, wrapped_key, index, last))
                except InvalidTag as error:
                    raise _corrupt(training_set_id) from error
                index += 1
            if not last:
                raise _corrupt(training_set_id)

    def delete(self, training_set_id: str) -> None:
        """Remove a file if it is there."""
        self._path(training_set_id).unlink(missing_ok=True)
        self._sync_folder()

    def _path(self, training_set_id: str) -> Path:
        return self._folder / f"{training_set_id}{_SUFFIX}"

    def _open(self, training_set_id: str) -> BufferedReader:
        try:
            return self._path(training_set_id).open("rb")
        except FileNotFoundError:
            raise NotFoundError(f"trainingSets/{training_set_id} has no stored rows") from None

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _with_last(frames: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield each frame and whether it is the last; there must be one."""
    iterator = iter(frames)
    held = next(iterator)
    for frame in iterator:
        yield held, False
        held = frame
    yield held, True


def _read_header(file: BufferedReader, training_set_id: str) -> bytes:
    if file.read(len(MAGIC)) != MAGIC:
        raise _corrupt(training_set_id)
    length = file.read(2)
    wrapped_key = file.read(int.from_bytes(length, "little")) if len(length) == 2 else b""
    if not wrapped_key:
        raise _corrupt(training_set_id)
    return wrapped_key


def _read_frame(file: BufferedReader, prefix: bytes, training_set_id: str) -> tuple[bytes, bytes]:
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 4 or length > MAX_SEALED:
        raise _corrupt(training_set_id)
    nonce, sealed = file.read(_NONCE), file.read(length)
    if len(nonce) < _NONCE or len(sealed) < length:
        raise _corrupt(training_set_id)
    return nonce, sealed


def _context(training_set_id: str, wrapped_key: bytes, index: int, last: bool) -> bytes:
    return b"\0".join([MAGIC, training_set_id.encode(), wrapped_key, struct.pack("<Q?", index, last)])


def _corrupt(training_set_id: str) -> DataLossError:
    return DataLossError(f"the stored rows of trainingSets/{training_set_id} do not authenticate; build the set again")
