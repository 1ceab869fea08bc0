"""The chain of one writer instance: its folder, its lock, its segment files, and recovery after a crash.

The audit directory of a service holds a folder per instance. A process takes the first folder that no living process
holds (flock), so a restart goes on with the chain of the process before, while a second process beside the first (a
rolling update, worker processes) gets a chain of its own: a chain never has two writers.

In a folder, `<first sequence>.blocks` is a segment, `.checkpoint` beside it says that it is sealed, `.shipped` that
governance has it. The last `.blocks` without a checkpoint may be open; all others are closed. A folder with
`reanchor.json` or `reanchored.json` is that of a chain whose break an operator accepted: it is never continued.
"""

import fcntl
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hedgerow.errors import FailedPreconditionError
from hedgerow.identity import TRUST_DOMAIN
from libs.audit.block_file import BlockFile, BlockFileContent, BlockFileError, Disk, read_block_file
from libs.audit.event import AuditEvent
from libs.audit.segment import ChainState, SegmentError, SegmentHeader, SegmentReader, empty_state, start_segment

BLOCK_BYTES = 256 * 1024
"""A group commit is split into blocks of about this size."""

STATEMENT = "reanchor.json"
"""An operator accepted the break of this chain; the next start carries that out."""
ACCEPTED = "reanchored.json"
"""The statement, once carried out."""


class AuditBrokenError(FailedPreconditionError):
    """The audit trail was changed; the metadata names the segment and the first record that does not verify."""

    default_reason = "AUDIT_BROKEN"

    def __init__(self, segment: str, sequence: int | None, why: str) -> None:
        record = "header" if sequence is None else str(sequence)
        super().__init__(
            f"audit segment {segment} does not verify from record {record} on: {why}",
            metadata={"segment": segment, "record": record},
        )
        self.segment = segment
        self.sequence = sequence
        self.why = why


@dataclass(frozen=True, slots=True)
class SegmentFiles:
    """The files of one segment."""

    blocks: Path

    @property
    def first_sequence(self) -> int:
        """The segment's first sequence."""
        return int(self.blocks.stem)

    @property
    def checkpoint(self) -> Path:
        """Present when sealed and not shipped."""
        return self.blocks.with_suffix(".checkpoint")

    @property
    def shipped(self) -> Path:
        """The checkpoint once shipped."""
        return self.blocks.with_suffix(".shipped")

    def is_sealed(self) -> bool:
        """Whether the segment has its checkpoint."""
        return self.checkpoint.exists() or self.shipped.exists()


@dataclass(frozen=True, slots=True)
class InstanceFolder:
    """Where an instance's segments lie, and how to read them."""

    path: Path
    service: str
    data_key: bytes
    trust_domain: str = TRUST_DOMAIN

    @property
    def instance(self) -> str:
        """The instance id: the folder's name."""
        return self.path.name

    def segments(self) -> list[SegmentFiles]:
        """The segments, oldest first."""
        return [SegmentFiles(path) for path in sorted(self.path.glob("*.blocks"))]

    def name(self, first_sequence: int) -> str:
        """The id of the segment that starts there."""
        return SegmentHeader(self.service, self.instance, first_sequence).name

    def read(self, files: SegmentFiles) -> tuple[BlockFileContent, ChainState | None]:
        """Reads a segment and checks its chain; the state behind it is None when it holds no whole block.

        Raises AuditBrokenError, OSError.
        """
        name = self.name(files.first_sequence)
        try:
            found = read_block_file(files.blocks, name, self.data_key)
            if not found.content:
                return found, None
            reader = SegmentReader(found.content)
            for _ in reader:
                pass
        except BlockFileError as error:
            raise AuditBrokenError(name, None, str(error)) from error
        except SegmentError as error:
            raise AuditBrokenError(name, error.sequence, error.reason) from error
        if reader.header.name != name:
            raise AuditBrokenError(name, None, f"the file holds segment {reader.header.name}")
        return found, reader.state


class Instance:
    """Appends to one chain. Every method blocks; after `acquire` all belong in one thread."""

    def __init__(self, folder: InstanceFolder, lock: int, *, segment_bytes: int, disk: Disk) -> None:
        """Use `acquire`. `lock` is the descriptor that holds the folder's lock."""
        self.folder = folder
        self._lock = lock
        self._segment_bytes = segment_bytes
        self._disk = disk
        self._state = empty_state()
        self._file: BlockFile | None = None
        self._bytes = 0
        self.open_sequence: int | None = None
        """First sequence of the open segment. Set before its file appears, cleared after it is closed."""
        self.opened_at = 0.0
        """When the open segment was begun (time.monotonic)."""
        self.head: tuple[int, bytes] = (0, self._state.chain_hash)
        """(last durable sequence, chain hash behind it); replaced as a whole, so any thread may read it."""

    @classmethod
    def acquire(
        cls,
        directory: Path,
        service: str,
        data_key: bytes,
        *,
        segment_bytes: int,
        disk: Disk,
        trust_domain: str = TRUST_DOMAIN,
    ) -> "Instance":
        """Takes the first free instance folder, or a new one, and recovers it. Raises AuditBrokenError, OSError."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in sorted(entry for entry in directory.iterdir() if entry.is_dir() and not is_closed(entry)):
            lock = try_lock(path)
            if lock is not None:
                return cls._recovered(InstanceFolder(path, service, data_key, trust_domain), lock, segment_bytes, disk)
        while True:
            path = directory / secrets.token_hex(6)
            path.mkdir(mode=0o700)
            lock = try_lock(path)
            if lock is not None:
                return cls._recovered(InstanceFolder(path, service, data_key, trust_domain), lock, segment_bytes, disk)

    @classmethod
    def _recovered(cls, folder: InstanceFolder, lock: int, segment_bytes: int, disk: Disk) -> "Instance":
        instance = cls(folder, lock, segment_bytes=segment_bytes, disk=disk)
        try:
            instance.recover()
        except AuditBrokenError as error:
            instance.release()
            way_out = (
                f"an operator can accept the break: python -m libs.audit reanchor {folder.path.parent} "
                f"--instance {folder.instance} --identity FOLDER --reason TEXT"
            )
            raise AuditBrokenError(error.segment, error.sequence, f"{error.why}; {way_out}") from error
        except BaseException:
            instance.release()
            raise
        return instance

    def recover(self) -> None:
        """Goes on where the chain ends; a torn tail is cut, and the cut recorded. Raises AuditBrokenError, OSError."""
        segments = self.folder.segments()
        cut: tuple[str, int] | None = None
        while segments:
            files = segments.pop()
            found, state = self.folder.read(files)
            sealed = files.is_sealed()
            if found.torn_bytes:
                name = self.folder.name(files.first_sequence)
                if sealed:
                    raise AuditBrokenError(name, state.next_sequence if state else None, "the sealed file is cut short")
                cut = (name, found.torn_bytes)
            if state is not None:
                self._continue(files, found, state, sealed=sealed)
                break
            files.blocks.unlink()
        if cut is not None:
            _, error = self.commit([_recovery_event(self.folder, *cut, self._state.next_sequence - 1)])
            if error is not None:
                raise error

    def commit(self, events: Sequence[AuditEvent]) -> tuple[int, OSError | None]:
        """Appends the events and waits until they are on the disk.

        Returns how many are, in order, and what kept the rest from it. A later commit may succeed.
        """
        done = 0
        try:
            while done < len(events):
                done += self._commit_block(events, done)
        except OSError as error:
            return done, error
        return done, None

    def roll(self) -> None:
        """Closes the open segment, if any, so that it can be sealed. Raises OSError: it is then still open."""
        if self._file is None:
            return
        self._file.cut_back()
        self._file.close()
        if self._bytes == 0:
            self._file.path.unlink()
        self._file, self._bytes = None, 0
        self.open_sequence = None

    def release(self) -> None:
        """Gives the folder back; what is not cut back is recovered by the next holder."""
        if self._file is not None:
            self._file.close()
            self._file = None
        os.close(self._lock)

    def _continue(self, files: SegmentFiles, found: BlockFileContent, state: ChainState, *, sealed: bool) -> None:
        self._state = state
        self.head = (state.next_sequence - 1, state.chain_hash)
        if sealed:
            return
        self._open(files.first_sequence)
        assert self._file is not None
        self._file.recover(found)
        self._bytes = len(found.content)

    def _open(self, first_sequence: int) -> BlockFile:
        self.open_sequence = first_sequence
        self.opened_at = time.monotonic()
        path = self.folder.path / f"{first_sequence:016d}.blocks"
        self._file = BlockFile(path, self.folder.name(first_sequence), self.folder.data_key, self._disk)
        return self._file

    def _commit_block(self, events: Sequence[AuditEvent], start: int) -> int:
        """Appends events from `start` on, up to a block's size; returns how many."""
        if self._bytes >= self._segment_bytes:
            self.roll()
        file = self._file if self._file is not None else self._open(self._state.next_sequence)
        state, parts = self._state.copy(), []
        if self._bytes == 0:
            head, state = start_segment(state.header(self.folder.service, self.folder.instance))
            parts.append(head)
        size, end = 0, start
        while end < len(events) and size < BLOCK_BYTES:
            parts.append(state.add_event(events[end]))
            size += len(parts[-1])
            end += 1
        content = b"".join(parts)
        file.append(content)
        self._state = state
        self._bytes += len(content)
        self.head = (state.next_sequence - 1, state.chain_hash)
        return end - start


def is_closed(folder: Path) -> bool:
    """Whether an operator accepted the break of the folder's chain."""
    return (folder / STATEMENT).exists() or (folder / ACCEPTED).exists()


def try_lock(folder: Path) -> int | None:
    """Locks an instance folder; None when another process holds it. Closing the descriptor gives it back."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _recovery_event(folder: InstanceFolder, segment: str, bytes_cut: int, events_kept: int) -> AuditEvent:
    return AuditEvent(
        actor=f"spiffe://{folder.trust_domain}/service/{folder.service}",
        on_behalf_of="",
        action="audit.Recover",
        resources=(f"auditSegments/{segment}",),
        purpose="",
        decision="permit",
        policies=(),
        code="OK",
        request_id="",
        event_time_ns=time.time_ns(),
        detail={"bytes_cut": bytes_cut, "events_kept": events_kept},
    )
