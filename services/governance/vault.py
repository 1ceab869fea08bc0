"""Sealed segments at rest: one file each, AES-256-GCM under the trail's data key, bound to the segment's name."""

from __future__ import annotations

import os
from pathlib import Path

import msgpack
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hedgerow.errors import DataLossError
from libs.audit import SealedSegment

_NONCE_BYTES = 12


class SegmentVault:
    """A folder of encrypted segments. All methods block."""

    def __init__(self, folder: Path, data_key: bytes) -> None:
        """Make the folder when missing.

        Args:
            folder: of its own, made with mode 0700.
            data_key: 32 bytes.
        """
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._cipher = AESGCM(data_key)

    def put(self, segment: SealedSegment) -> None:
        """Keep a segment; it is on disk when this returns. Raises OSError."""
        packed = msgpack.packb([segment.content, segment.checkpoint], use_bin_type=True)
        nonce = os.urandom(_NONCE_BYTES)
        path = self._path(segment.name)
        draft = path.with_suffix(".draft")
        with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(nonce + self._cipher.encrypt(nonce, packed, segment.name.encode()))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def get(self, name: str) -> SealedSegment:
        """Return a segment.

        Raises:
            DataLossError: its file is missing or was changed.
        """
        try:
            data = self._path(name).read_bytes()
            packed = self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], name.encode())
        except FileNotFoundError as error:
            raise DataLossError(f"the stored segment {name} is missing", metadata={"segment": name}) from error
        except (InvalidTag, ValueError) as error:
            raise DataLossError(
                f"the stored segment {name} does not authenticate: its file was changed", metadata={"segment": name}
            ) from error
        content, checkpoint = msgpack.unpackb(packed)
        return SealedSegment(name, content, checkpoint)

    def arrival_ns(self, name: str) -> int:
        """Return when a segment was put here, nanoseconds since 1970. Raises OSError."""
        return self._path(name).stat().st_mtime_ns

    def names(self, chain: str) -> list[str]:
        """Return the ids of a chain's segments, in order."""
        return sorted(path.stem for path in self._folder.glob(f"{chain}-*.sealed"))

    def remove(self, name: str) -> None:
        """Remove a segment. Raises OSError."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.sealed"
