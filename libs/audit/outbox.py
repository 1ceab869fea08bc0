"""Seals closed segments with a signed checkpoint and ships them; keeps what is not shipped, bounds what is."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from libs.audit.block_file import sync_directory
from libs.audit.checkpoint import Checkpoint, key_name, sign_note
from libs.audit.instance import AuditBrokenError, InstanceFolder, SegmentFiles
from libs.audit.segment import ChainState

Sign = Callable[[bytes], Awaitable[tuple[bytes, int]]]
"""(payload) -> (ed25519 signature, version of the key), by signingKeys/<service>-audit."""

PublicKeys = Callable[[], Awaitable[Mapping[int, bytes]]]
"""() -> the 32-byte ed25519 public keys of that signing key by version."""

Ship = Callable[[str, bytes, str], Awaitable[None]]
"""(name `auditSegments/…`, the segment's bytes, its checkpoint): returns once governance holds it. Repeatable."""


@dataclass(frozen=True, slots=True)
class Outbox:
    """Seals and ships the segments of an instance folder whose lock this process holds."""

    sign: Sign
    public_keys: PublicKeys
    ship: Ship
    keep_shipped: int
    """Shipped segments kept on this machine."""
    call_seconds: float
    """Deadline of each call to `sign`, `public_keys` and `ship`."""

    async def run(self, folder: InstanceFolder, open_sequence: Callable[[], int | None]) -> None:
        """Seals and ships, oldest first, everything but the open segment.

        Raises AuditBrokenError, OSError, TimeoutError, CheckpointError and what the callables raise; a later run goes
        on where this one stopped.
        """
        segments = await asyncio.to_thread(folder.segments)
        being_written = open_sequence()  # after the listing: what was open then and is not now, is closed
        for files in segments:
            if files.first_sequence == being_written:
                continue
            if not files.is_sealed():
                await self._seal(folder, files)
            if files.checkpoint.exists():
                await self._ship(folder, files)
        await asyncio.to_thread(self._prune, folder)

    async def _seal(self, folder: InstanceFolder, files: SegmentFiles) -> None:
        _, state = await asyncio.to_thread(read_closed, folder, files)
        segment = folder.name(files.first_sequence)
        checkpoint = Checkpoint(
            service=folder.service,
            instance=folder.instance,
            size=state.next_sequence - 1,
            root=state.tree.root(),
            segment=segment,
            chain_hash=state.chain_hash,
        )
        body = checkpoint.body()
        async with asyncio.timeout(self.call_seconds):
            signature, version = await self.sign(body.encode())
        async with asyncio.timeout(self.call_seconds):
            keys = await self.public_keys()
        note = sign_note(body, key_name(folder.service), keys.get(version, b""), signature)
        await asyncio.to_thread(_write_durably, files.checkpoint, note)

    async def _ship(self, folder: InstanceFolder, files: SegmentFiles) -> None:
        content, _ = await asyncio.to_thread(read_closed, folder, files)
        note = await asyncio.to_thread(files.checkpoint.read_text, "utf-8")
        async with asyncio.timeout(self.call_seconds):
            await self.ship(f"auditSegments/{folder.name(files.first_sequence)}", content, note)
        await asyncio.to_thread(_rename_durably, files.checkpoint, files.shipped)

    def _prune(self, folder: InstanceFolder) -> None:
        shipped = [files for files in folder.segments() if files.shipped.exists()]
        # The last segment is where the chain goes on after a restart, so one always stays.
        for files in shipped[: -max(1, self.keep_shipped)]:
            files.blocks.unlink()
            files.shipped.unlink()


def read_closed(folder: InstanceFolder, files: SegmentFiles) -> tuple[bytes, ChainState]:
    """Returns (a closed segment's bytes, the state behind it). Raises AuditBrokenError when not whole, OSError."""
    found, state = folder.read(files)
    if state is None or found.torn_bytes:
        next_sequence = state.next_sequence if state else None
        raise AuditBrokenError(folder.name(files.first_sequence), next_sequence, "the closed file is cut short")
    return found.content, state


def unshipped_count(folder: InstanceFolder) -> int:
    """Number of segments that governance does not hold yet, the open one included."""
    return sum(not files.shipped.exists() for files in folder.segments())


def _write_durably(path: Path, text: str) -> None:
    draft = path.with_suffix(".draft")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _rename_durably(draft, path)


def _rename_durably(source: Path, target: Path) -> None:
    source.rename(target)
    sync_directory(target.parent)
