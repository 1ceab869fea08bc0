"""The tamper-evident audit trail of one process: append, seal, ship, verify.

A process appends to its own chain of segment files; nothing here knows gRPC, SQL or the other services.

Writing (`AuditWriter`)::

    writer = AuditWriter(
        directory,                    # var/local/<service>/audit, 0700; may be shared by the processes of one service
        service="ingestion",
        data_key=key32,               # 32 bytes, encrypts the files at rest
        sign=sign,                    # async (payload: bytes) -> (signature: bytes, key_version: int), see `Sign`
        public_keys=public_keys,      # async () -> {key_version: 32-byte ed25519 public key}, see `PublicKeys`
        ship=ship,                    # async (name: str, content: bytes, checkpoint: str) -> None; PutAuditSegment
        report=report,                # async (head: AuditHead) -> bool "seal now"; ReportAuditHead; None leaves it out
    )
    await writer.start()              # recovers what a crash left; AuditBrokenError when the chain is really broken
    await writer.append(event)        # DURABLE: returns once the event is on disk
    writer.append_nowait(event)       # BUFFERED: on disk within a tenth of a second
    writer.fold(event)                # BUFFERED, and like events of one second become one with a count
    await writer.seal()               # everything so far is sealed, signed and shipped
    await writer.close()

`append`, `append_nowait` and `fold` raise UnavailableError(reason="AUDIT_UNAVAILABLE") when the trail cannot be
written: the call must then be refused. They recover when the disk does.

A chain that is really broken: `python -m libs.audit reanchor DIR …`, see `libs.audit.reanchor` and docs/adr/0011.

Verifying: `verify_segments(segments, keys)`, or offline `python -m libs.audit verify DIR --keys FILE`.
"""

from libs.audit.anchor import Anchor, AnchorKind
from libs.audit.event import AuditEvent, StoredEvent
from libs.audit.instance import AuditBrokenError
from libs.audit.verify import Fault, SealedSegment, VerificationReport, read_directory, verify_segments
from libs.audit.writer import AuditHead, AuditLimits, AuditWriter, WriterStatus

__all__ = [
    "Anchor",
    "AnchorKind",
    "AuditBrokenError",
    "AuditEvent",
    "AuditHead",
    "AuditLimits",
    "AuditWriter",
    "Fault",
    "SealedSegment",
    "StoredEvent",
    "VerificationReport",
    "WriterStatus",
    "read_directory",
    "verify_segments",
]
