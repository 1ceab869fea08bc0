"""A key service in memory and small tables for the tests of the lake."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from hedgerow.errors import InvalidArgumentError, PermissionDeniedError, UnavailableError
from libs.lake import Keyring, LakeTable, SnapshotReader, TableLayout

SCHEMA = pa.schema(
    [
        pa.field("client_id", pa.string(), nullable=False),
        pa.field("opened_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("balance", pa.int64()),
        pa.field("ratio", pa.float64()),
        pa.field("active", pa.bool_()),
    ]
)
LAYOUT = TableLayout(
    SCHEMA,
    "keys/test-footer",
    {
        "client_id": "keys/test-pii",
        "opened_at": "keys/test-plain",
        "balance": "keys/test-sensitive",
        "ratio": "keys/test-plain",
        "active": "keys/test-plain",
    },
)


class KeyService:
    """Wraps and unwraps under named keys, counts its calls, and refuses the keys in ``refused``."""

    def __init__(self) -> None:
        self.keys: dict[str, bytes] = {}
        self.wrapped_lengths: list[int] = []
        self.unwraps = 0
        self.refused: set[str] = set()
        self.down = False

    def wrap(self, name: str, plaintext: bytes) -> bytes:
        if self.down:
            raise UnavailableError("the key service is down")
        self.wrapped_lengths.append(len(plaintext))
        nonce = os.urandom(12)
        return nonce + AESGCM(self.keys.setdefault(name, os.urandom(32))).encrypt(nonce, plaintext, None)

    def unwrap(self, name: str, wrapped: bytes) -> bytes:
        self.unwraps += 1
        if name in self.refused:
            raise PermissionDeniedError("the grant does not cover the key", reason="GRANT_INVALID")
        if name not in self.keys:
            raise InvalidArgumentError("unknown key")
        try:
            return AESGCM(self.keys[name]).decrypt(wrapped[:12], wrapped[12:], None)
        except (InvalidTag, ValueError) as error:
            raise InvalidArgumentError("wrapped is not what WrapKey returned") from error


def make_table(folder: Path, service: KeyService, layout: TableLayout = LAYOUT) -> LakeTable:
    """Return a new empty table under a folder."""
    table = LakeTable((folder / "clients").as_uri(), layout, Keyring(wrap=service.wrap, unwrap=service.unwrap))
    table.create()
    return table


def read(table: LakeTable, service: KeyService, version: int | None = None) -> pa.Table:
    """Return the rows of a version through a reader of its own, as another service would."""
    found = table.snapshot(version)
    reader = SnapshotReader(location=found.location, files=found.files, schema=SCHEMA, unwrap=service.unwrap)
    return reader.table()


def clients(table: LakeTable, service: KeyService, version: int | None = None) -> list[str]:
    """Return the sorted client ids of a version."""
    return sorted(read(table, service, version).column("client_id").to_pylist())


def rows(*clients: str, balance: int | None = 9_007_199_254_740_993) -> pa.Table:
    """Return one row per client."""
    return pa.Table.from_pylist(
        [
            {"client_id": c, "opened_at": 1_112_227_200_000_000 + i, "balance": balance, "ratio": i / 7, "active": None}
            for i, c in enumerate(clients)
        ],
        schema=SCHEMA,
    )
