"""The parts of the governance service on a real database, with keys of their own."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import services.governance
from hedgerow.errors import HedgerowError
from libs.sql import Database, open_database
from services.governance.anchors import AnchorBook
from services.governance.erasure import ErasureRequest, StoreErasure, subject_hash
from services.governance.erasure_runner import ErasureLimits, ErasureRunner
from services.governance.store import ErasureStore, TrailStore
from services.governance.trail import AuditTrail
from services.governance.vault import SegmentVault
from tests.support.audit_trail import PUBLIC_KEY

DATA_KEY = bytes(range(32))
PSEUDONYM_KEY = bytes(range(100, 132))
SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(50, 82)))
MIGRATIONS = Path(services.governance.__file__).parent / "migrations"


@contextmanager
def database(directory: Path) -> Iterator[Database]:
    """The service's database."""
    opened = open_database(directory / "governance.db", DATA_KEY, MIGRATIONS)
    try:
        yield opened
    finally:
        opened.close()


async def audit_keys(service: str, *, fresh: bool = False) -> Sequence[bytes]:
    """The keys that `tests.support.audit_trail` signs with, for every service."""
    return [PUBLIC_KEY]


def make_trail(opened: Database, directory: Path) -> AuditTrail:
    """A trail that is not started yet."""
    store = TrailStore(opened)
    return AuditTrail(store, SegmentVault(directory / "segments", DATA_KEY), audit_keys, anchor_book(store))


def anchor_book(store: TrailStore) -> AnchorBook:
    """Anchors signed with SIGNING_KEY."""

    async def public_keys() -> dict[int, bytes]:
        return {1: SIGNING_KEY.public_key().public_bytes_raw()}

    return AnchorBook(store, sign, public_keys)


async def pseudonym(domain: str, subject: str) -> str:
    """One key for all domains."""
    return subject_hash(PSEUDONYM_KEY, f"{domain}/{subject}")


async def sign(payload: bytes) -> tuple[bytes, int]:
    """Signs with SIGNING_KEY, version 1."""
    return SIGNING_KEY.sign(payload), 1


class Eraser:
    """A service that erases: answers, fails or waits as told."""

    def __init__(self, service: str, store: str) -> None:
        self.service = service
        self.store = store
        self.faults: list[HedgerowError | Exception] = []
        self.asked: list[ErasureRequest] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(self, request: ErasureRequest) -> Sequence[StoreErasure]:
        """See `Erase`."""
        self.asked.append(request)
        await self.go_on.wait()
        if self.faults:
            raise self.faults.pop(0)
        return [StoreErasure(self.service, self.store, objects_searched=3, objects_rewritten=1, rows_erased=7)]


def make_runner(
    opened: Database, trail: AuditTrail, erasers: Sequence[Eraser], log_dir: Path | None, **options: object
) -> ErasureRunner:
    """A runner with quick retries."""
    limits = ErasureLimits(pause_seconds=0.001)
    parts = {"pseudonym": pseudonym, "sign": sign, "limits": limits} | options
    return ErasureRunner(
        ErasureStore(opened),
        erasers={eraser.service: eraser for eraser in erasers},
        trail=trail,
        log_paths=() if log_dir is None else (log_dir,),
        **parts,  # type: ignore[arg-type]
    )
