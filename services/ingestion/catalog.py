"""Datasets as this process works with them: the contract, the lake table, and the quarantine with its key."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from libs.lake import LOCAL_STORAGE, Keyring, LakeStorage, LakeTable
from services.ingestion.contract import Contract, validate
from services.ingestion.dataset import Dataset, check_dataset_id
from services.ingestion.erasure_gate import ErasureGate
from services.ingestion.quarantine import Quarantine
from services.ingestion.store import IngestionStore

QUARANTINE_KEY = "keys/ingestion-quarantine"


class Keys(Protocol):
    """The secrets service, for callers on worker threads. All methods block and raise its typed errors."""

    def wrap(self, key: str, plaintext: bytes) -> bytes:
        """Return key material wrapped under ``keys/{key}``."""

    def unwrap(self, key: str, wrapped: bytes) -> bytes:
        """Return key material in clear."""

    def create_data_key(self, key: str) -> tuple[bytes, bytes]:
        """Return 32 fresh bytes and the same bytes wrapped."""

    def pseudonym_key(self, domain: str) -> bytes:
        """Return the key of a pseudonym domain."""


@dataclass(frozen=True)
class OpenDataset:
    """A dataset at work.

    Attributes:
        dataset: as stored.
        table: its rows.
        quarantine: seals and searches the rows that broke the contract.
        pseudonym_key: of the contract's domain; empty when it has none.
        changing: held while an append is finished or a subject taken out, for the two stores must agree.
        gate: who was erased while an append is under way.
    """

    dataset: Dataset
    table: LakeTable
    quarantine: Quarantine
    pseudonym_key: bytes = field(repr=False)
    changing: threading.Lock = field(default_factory=threading.Lock)
    gate: ErasureGate = field(default_factory=ErasureGate)

    @property
    def id(self) -> str:
        """The id, as in ``datasets/{id}``."""
        return self.dataset.id

    @property
    def contract(self) -> Contract:
        """What the records must be."""
        return self.dataset.contract


class Catalog:
    """Opens datasets once and keeps them open; their number is bounded by the store. All methods block."""

    def __init__(
        self,
        store: IngestionStore,
        keys: Keys,
        location: str,
        *,
        storage: LakeStorage = LOCAL_STORAGE,
        orphans_older_than: timedelta = timedelta(0),
        now: Callable[[], float] = time.time,
    ) -> None:
        """Take the lake's place.

        Args:
            store: datasets and quarantine.
            keys: the secrets service.
            location: of the lake, such as ``file:///srv/lake``; each table is a folder in it.
            storage: how an object store is reached.
            orphans_older_than: files that no version lists are deleted when a dataset is opened, if they are older;
                0 is right where this process is the only writer.
            now: seconds since 1970 UTC.
        """
        self.store = store
        self._keys = keys
        self._location = location.rstrip("/")
        self._storage = storage
        self._ring = Keyring(wrap=keys.wrap, unwrap=keys.unwrap)
        self._orphans_older_than = orphans_older_than
        self._now = now
        self._lock = threading.Lock()
        self._open: dict[str, OpenDataset] = {}

    def now_us(self) -> int:
        """Return microseconds since 1970 UTC."""
        return int(self._now() * 1_000_000)

    def create(self, dataset_id: str, contract: Contract) -> OpenDataset:
        """Create a dataset; one of the same name and contract is returned as it is.

        Raises:
            InvalidArgumentError: the id or the contract does not hold.
            AlreadyExistsError: the name is taken by another contract.
            UnavailableError: the secrets service or the lake's storage is not reachable.
        """
        check_dataset_id(dataset_id)
        validate(contract)
        _, wrapped = self._keys.create_data_key(QUARANTINE_KEY)
        self.store.add_dataset(Dataset(dataset_id, contract, wrapped, self.now_us()))
        return self.open(dataset_id)

    def contract(self, dataset_id: str) -> Contract:
        """Return the contract of a dataset without opening its table.

        Raises:
            NotFoundError: there is no such dataset.
        """
        held = self._open.get(dataset_id)
        return held.contract if held else self.store.dataset(dataset_id).contract

    def open(self, dataset_id: str) -> OpenDataset:
        """Return a dataset, its table made if a crash came between.

        Raises:
            NotFoundError: there is no such dataset.
            UnavailableError: the secrets service or the lake's storage is not reachable.
        """
        held = self._open.get(dataset_id)
        if held is not None:
            return held
        # One at a time: there must be one lock and one writer per table, and no append while orphans are cleaned.
        with self._lock:
            return self._open.get(dataset_id) or self._opened(self.store.dataset(dataset_id))

    def _opened(self, dataset: Dataset) -> OpenDataset:
        contract = dataset.contract
        table = LakeTable(f"{self._location}/{dataset.id}", contract.layout(dataset.id), self._ring, self._storage)
        table.create()
        table.clean(older_than=self._orphans_older_than)
        quarantine = Quarantine(dataset.id, self._keys.unwrap(QUARANTINE_KEY, dataset.quarantine_key))
        key = self._keys.pseudonym_key(contract.pseudonym_domain) if contract.pseudonym_domain else b""
        opened = self._open[dataset.id] = OpenDataset(dataset, table, quarantine, key)
        return opened

    def settle(self) -> None:
        """Settle what a crash left between the two stores: finish the appends that the lake has, forget the others."""
        for dataset_id, request_id in self.store.unfinished_appends():
            opened = self.open(dataset_id)
            with opened.changing:
                commit = opened.table.find(request_id)
                if commit is None:
                    self.store.discard_append(dataset_id, request_id)
                else:
                    self.store.finish_append(dataset_id, request_id, version=commit.version, row_count=commit.row_count)
