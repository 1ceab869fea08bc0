"""The erasure gate of several replicas: what one of them erases, no job of another brings back."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hedgerow.private_file import write_private
from services.features.erasure import ErasureGate
from services.features.held_files import FileLock, HeldFiles

TRY_SECONDS = 0.05
_NONCE = 12
_CONTEXT = b"hedgerow erased subjects 1"


class SharedErasureGate(ErasureGate):
    """An `ErasureGate` in a folder that all replicas see.

    Each running job holds a file there; the entities erased while any did are kept beside, sealed, until none does.
    """

    def __init__(self, folder: Path, key: bytes) -> None:
        """Take the folder and the key, 32 bytes, that all replicas have."""
        super().__init__()
        self._running = HeldFiles(folder / "jobs")
        self._writes = FileLock(folder / "write.lock")
        self._erasures = FileLock(folder / "erasure.lock")
        self._state = FileLock(folder / "erased.lock")
        self._file = folder / "erased.sealed"
        self._cipher = AESGCM(key)

    @contextlib.contextmanager
    def job(self) -> Iterator[None]:
        """See `ErasureGate.job`."""
        try:
            with self._running.hold("job"):
                yield
        finally:
            with self._state.held():
                self._running.abandoned()
                if not self._running.held():
                    self._file.unlink(missing_ok=True)

    @contextlib.contextmanager
    def writing(self) -> Iterator[frozenset[str]]:
        """See `ErasureGate.writing`."""
        with self._writes.held():
            with self._state.held():
                erased = self._read()
            yield erased

    def close_to(self, entity: str) -> None:
        """See `ErasureGate.close_to`."""
        with self._writes.held(), self._state.held():
            if self._running.held():
                nonce = secrets.token_bytes(_NONCE)
                plaintext = json.dumps(sorted(self._read() | {entity})).encode()
                write_private(self._file, nonce + self._cipher.encrypt(nonce, plaintext, _CONTEXT))

    @contextlib.asynccontextmanager
    async def erasing(self) -> AsyncIterator[None]:
        """See `ErasureGate.erasing`."""
        async with super().erasing():
            while True:
                # Tried and not waited for: a caller who goes away must not leave a thread that takes the lock later.
                with self._erasures.tried() as is_held:
                    if is_held:
                        yield
                        return
                await asyncio.sleep(TRY_SECONDS)

    def _read(self) -> frozenset[str]:
        try:
            sealed = self._file.read_bytes()
        except FileNotFoundError:
            return frozenset()
        return frozenset(json.loads(self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], _CONTEXT)))
