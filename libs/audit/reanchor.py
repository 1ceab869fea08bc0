"""Re-anchors a broken chain: an operator accepts the break, signed, and a new chain begins with the record of that.

Two steps, because an operator holds no data key and a service cannot accept a break of its own trail:

1. `accept_break`, the command: signs who, when, why and the digest of every file of the broken instance folder with the
   operator's identity, and leaves that in the folder as `reanchor.json`. From then on nobody continues the chain.
2. `carry_out_reanchors`, at the service's next start: begins a new chain whose first record is the re-anchor (the actor,
   time and reason, the last good event and its chain hash, the digests of evidence and statement), and only then sets
   the broken segment and all behind it aside, unchanged, in `evidence/`. What verifies before the break stays and is
   shipped as usual: whole segments, and of a segment that was not sealed yet the events before its break.

Every step may be interrupted and is then made up for: the new chain's name is that of the statement, it appears in one
rename with its record in it, and files are linked into `evidence/` before they are taken away.

What it does not do: it makes no event come back, and it does not convince governance, which goes on reporting the missing
events until an operator accepts these there (`CreateAuditAnchor`). Whoever can write the folder can put a statement there
with a certificate of their own; whose it is, shows in its chain, to be held against the suite's roots.
"""

import base64
import json
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from hedgerow.errors import FailedPreconditionError, HedgerowError, InvalidArgumentError
from hedgerow.identity import Identity, spiffe_id
from hedgerow.private_file import write_private
from libs.audit.anchor import MAX_REASON_CHARACTERS
from libs.audit.block_file import BlockFile, BlockFileError, Disk, read_block_file, sync_directory
from libs.audit.checkpoint import CheckpointError, parse_checkpoint
from libs.audit.event import AuditEvent
from libs.audit.hash_chain import ZERO_HASH
from libs.audit.instance import (
    ACCEPTED,
    STATEMENT,
    AuditBrokenError,
    Instance,
    InstanceFolder,
    SegmentFiles,
    is_closed,
    try_lock,
)
from libs.audit.segment import SegmentError, SegmentReader

EVIDENCE = "evidence"
_NEXT = "next"


@dataclass(frozen=True, slots=True)
class Statement:
    """An operator's word that a chain ends here."""

    actor: str
    """The SPIFFE ID of the certificate that signed."""
    time_ns: int
    reason: str
    evidence_sha256: str
    digest: str
    """Of the signed file, in hexadecimal."""


@dataclass(frozen=True, slots=True)
class _Extent:
    """How far a closed chain verifies."""

    sequence: int
    """The last good event; 0 when there is none."""
    chain_hash: bytes
    tail: tuple[SegmentFiles, ...] = ()
    """The first broken segment and all behind it."""
    prefix: bytes = b""
    """What of the first of them can be kept."""


def accept_break(path: Path, identity: Identity, reason: str) -> Statement:
    """Signs that the chain of an instance folder ends where it breaks.

    Args:
        path: the instance folder, of which no process is the writer now.
        identity: the operator's.
        reason: one line of 1 to 256 characters, without personal data.

    Raises:
        InvalidArgumentError: the reason is none.
        FailedPreconditionError: there is no such chain, a process writes it, or it was re-anchored before.
        OSError: the folder cannot be read or written.
    """
    if not reason.strip() or not reason.isprintable() or len(reason) > MAX_REASON_CHARACTERS:
        what = f"expected one line of 1 to {MAX_REASON_CHARACTERS} characters"
        raise InvalidArgumentError(f"the reason is missing or malformed: {what}", fields={"reason": what})
    if not path.is_dir() or not any(path.glob("*.blocks")):
        raise FailedPreconditionError(f"{path} is not the folder of an audit chain")
    if is_closed(path):
        raise FailedPreconditionError(f"the chain {path.name} was re-anchored already")
    lock = try_lock(path)
    if lock is None:
        raise FailedPreconditionError(f"a process writes the chain {path.name}; stop it first")
    try:
        signed = {
            "instance": path.name,
            "actor": identity.spiffe_id,
            "time_ns": time.time_ns(),
            "reason": reason,
            "evidence_sha256": _folder_digest(path),
            "certificate": identity.chain_pem.decode(),
        }
        key = serialization.load_pem_private_key(identity.key_pem, password=None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise InvalidArgumentError("the identity's key is not an elliptic curve key")
        signature = key.sign(_canonical(signed), ec.ECDSA(hashes.SHA256()))
        raw = _canonical(signed | {"signature": base64.b64encode(signature).decode()})
        write_private(path / STATEMENT, raw)
        sync_directory(path)
    finally:
        os.close(lock)
    return _open_statement(raw, path.name)


def carry_out_reanchors(directory: Path, service: str, data_key: bytes, disk: Disk) -> None:
    """Carries out what operators accepted in the audit directory of a service; nothing when there is nothing.

    Raises AuditBrokenError when a statement does not verify or is not about the files that are there, OSError.
    """
    for statement in sorted(directory.glob(f"*/{STATEMENT}")):
        folder = InstanceFolder(statement.parent, service, data_key)
        lock = try_lock(folder.path)
        if lock is None:
            continue
        try:
            _carry_out(folder, statement.read_bytes(), disk)
        finally:
            os.close(lock)


def _carry_out(folder: InstanceFolder, raw: bytes, disk: Disk) -> None:
    statement = _open_statement(raw, folder.instance)
    extent = _extent(folder)
    target = folder.path.parent / statement.digest[:12]
    if not target.exists():
        if _folder_digest(folder.path) != statement.evidence_sha256:
            raise AuditBrokenError(
                folder.name(extent.sequence + 1), None,
                f"its files changed after the break was accepted; remove {STATEMENT} and accept it anew",
            )  # fmt: skip
        _begin_chain(folder, target, _reanchor_event(folder, statement, extent), disk)
    _set_aside(folder, extent, disk)
    (folder.path / STATEMENT).rename(folder.path / ACCEPTED)
    sync_directory(folder.path)


def _begin_chain(folder: InstanceFolder, target: Path, event: AuditEvent, disk: Disk) -> None:
    """Makes the new instance folder with its first record in it, in one rename."""
    draft = folder.path / _NEXT / target.name
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700, parents=True)
    lock = try_lock(draft)
    assert lock is not None, "nobody else looks into a folder that is being made"
    instance = Instance(replace(folder, path=draft), lock, segment_bytes=1, disk=disk)
    try:
        _, error = instance.commit([event])
    finally:
        instance.release()
    if error is not None:
        raise error
    draft.rename(target)
    draft.parent.rmdir()
    sync_directory(target.parent)


def _reanchor_event(folder: InstanceFolder, statement: Statement, extent: _Extent) -> AuditEvent:
    return AuditEvent(
        actor=statement.actor,
        on_behalf_of="",
        action="audit.Reanchor",
        resources=(
            f"auditChains/{folder.service}-{folder.instance}",
            f"lastGood:{extent.sequence}:{extent.chain_hash.hex()}",
            f"evidence:sha256:{statement.evidence_sha256}",
            f"statement:sha256:{statement.digest}",
            f"reason:{statement.reason}",
        ),
        purpose="operations",
        decision="permit",
        policies=(),
        code="DATA_LOSS",
        request_id="",
        event_time_ns=statement.time_ns,
        detail={"last_good_sequence": extent.sequence, "segments_set_aside": len(extent.tail)},
    )


def _extent(folder: InstanceFolder) -> _Extent:
    """Walks what is not shipped, in order; what is shipped is governance's to judge."""
    segments = folder.segments()
    shipped = [files for files in segments if files.shipped.exists()]
    waiting = segments[len(shipped) :]
    sequence, chain_hash = 0, ZERO_HASH
    if shipped:
        sequence, chain_hash = _stated_end(folder, shipped[-1].shipped)
    for number, files in enumerate(waiting):
        content, sound = _read_prefix(folder, files)
        reader = _reader(content)
        header = reader.header if reader else None
        if reader is None or header is None or header.name != folder.name(files.first_sequence):
            return _Extent(sequence, chain_hash, tuple(waiting[number:]))
        if (header.first_sequence, header.previous_hash) != (sequence + 1, chain_hash):
            return _Extent(sequence, chain_hash, tuple(waiting[number:]))
        end = (reader.state.next_sequence - 1, reader.state.chain_hash)
        if files.checkpoint.exists():
            # Sealed, so perhaps held by governance: what is left of it must not be sealed a second time.
            if not sound or _stated_end(folder, files.checkpoint) != end:
                return _Extent(sequence, chain_hash, tuple(waiting[number:]))
        elif not sound:
            return _Extent(*end, tuple(waiting[number:]), content)
        sequence, chain_hash = end
    return _Extent(sequence, chain_hash)


def _read_prefix(folder: InstanceFolder, files: SegmentFiles) -> tuple[bytes, bool]:
    """Returns (the bytes of a segment up to its break, whether there is none)."""
    try:
        found = read_block_file(files.blocks, folder.name(files.first_sequence), folder.data_key)
        content, sound = found.content, not found.torn_bytes
    except BlockFileError as error:
        content, sound = error.content, False
    try:
        reader = SegmentReader(content)
    except SegmentError:
        return b"", False
    try:
        for _ in reader:
            pass
    except SegmentError:
        sound = False
    return content[: reader.verified_bytes], sound


def _reader(content: bytes) -> SegmentReader | None:
    """Returns a reader at the end of a segment that verifies; None when it holds no event."""
    if not content:
        return None
    reader = SegmentReader(content)
    return reader if sum(1 for _ in reader) else None


def _stated_end(folder: InstanceFolder, note: Path) -> tuple[int, bytes]:
    body = note.read_text("utf-8", errors="replace").partition("\n\n")[0] + "\n"
    try:
        checkpoint = parse_checkpoint(body, folder.service)
    except CheckpointError as error:
        raise AuditBrokenError(folder.name(int(note.stem)), None, f"{note.name}: {error}") from error
    return checkpoint.size, checkpoint.chain_hash


def _set_aside(folder: InstanceFolder, extent: _Extent, disk: Disk) -> None:
    evidence = folder.path / EVIDENCE
    evidence.mkdir(mode=0o700, exist_ok=True)
    for files in extent.tail:
        for path in (files.blocks, files.checkpoint):
            if path.exists() and not (evidence / path.name).exists():
                (evidence / path.name).hardlink_to(path)
    sync_directory(evidence)
    # From the last to the first, so that an interruption leaves a shorter tail and never a gap.
    for files in reversed(extent.tail[1:] if extent.prefix else extent.tail):
        files.blocks.unlink()
        files.checkpoint.unlink(missing_ok=True)
    if extent.prefix:
        _replace_content(folder, extent.tail[0], extent.prefix, disk)
    sync_directory(folder.path)


def _replace_content(folder: InstanceFolder, files: SegmentFiles, content: bytes, disk: Disk) -> None:
    draft = files.blocks.with_suffix(".draft")
    draft.unlink(missing_ok=True)
    file = BlockFile(draft, folder.name(files.first_sequence), folder.data_key, disk)
    try:
        file.append(content)
    finally:
        file.close()
    draft.replace(files.blocks)


def _open_statement(raw: bytes, instance: str) -> Statement:
    try:
        document: dict[str, Any] = json.loads(raw)
        signature = base64.b64decode(document.pop("signature"), validate=True)
        certificate = x509.load_pem_x509_certificate(document["certificate"].encode())
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ValueError("not an elliptic curve key")
        key.verify(signature, _canonical(document), ec.ECDSA(hashes.SHA256()))
        statement = Statement(
            actor=str(document["actor"]),
            time_ns=int(document["time_ns"]),
            reason=str(document["reason"]),
            evidence_sha256=str(document["evidence_sha256"]),
            digest=sha256(raw).hexdigest(),
        )
        sound = document["instance"] == instance and spiffe_id(certificate) == statement.actor
    except (ValueError, TypeError, KeyError, AttributeError, InvalidSignature, HedgerowError) as error:
        raise _false_statement(instance) from error
    if not sound:
        raise _false_statement(instance)
    return statement


def _false_statement(instance: str) -> AuditBrokenError:
    return AuditBrokenError(instance, None, f"the signature of its {STATEMENT} does not verify; remove the file")


def _folder_digest(path: Path) -> str:
    """SHA-256 over names and digests of all segment files, in hexadecimal."""
    digest = sha256()
    for file in _segment_files(path):
        with file.open("rb") as stream:
            content = sha256()
            while chunk := stream.read(1024 * 1024):
                content.update(chunk)
        digest.update(f"{file.name} {content.hexdigest()}\n".encode())
    return digest.hexdigest()


def _segment_files(path: Path) -> Sequence[Path]:
    return sorted(file for file in path.iterdir() if file.suffix in {".blocks", ".checkpoint", ".shipped"})


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
