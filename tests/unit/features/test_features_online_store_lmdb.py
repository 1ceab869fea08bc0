"""The online store in LMDB: the conformance suite, and what is particular to this engine."""

from __future__ import annotations

import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
import pytest

from hedgerow.errors import DataLossError, ResourceExhaustedError
from services.features.online_store import OnlineStore
from services.features.online_store.lmdb import LmdbOnlineStore
from services.features.online_store.sealing import Sealing
from tests.conformance.stores.online_store_conformance import (
    VIEW,
    OnlineStoreConformance,
    Open,
    occurrences,
    values,
)

KEY = bytes(range(32))


@pytest.fixture
def reopen(tmp_path: Path) -> Open:
    return lambda: LmdbOnlineStore(tmp_path / "online", Sealing(KEY), map_size_mib=64)


@pytest.fixture
def store(reopen: Open) -> Iterator[OnlineStore]:
    opened = reopen()
    yield opened
    opened.close()


class TestLmdb(OnlineStoreConformance):
    """The rules of the port."""


def stored_bytes(store: LmdbOnlineStore, key: bytes) -> bytes:
    # One process may open an environment once, so the bytes come from the store's own.
    with store._environment.begin() as transaction:
        return bytes(transaction.get(key))


def test_nothing_is_in_clear_and_files_are_private(store: LmdbOnlineStore, tmp_path: Path) -> None:
    block = np.array([[1234.5678, 8765.4321]])
    store.write(VIEW, ["alice-pseudonym"], values(*block), 500)
    for needle in (b"alice", b"behaviour", KEY, block.tobytes(), block[0, :1].tobytes()):
        assert occurrences(tmp_path, needle) == 0
    for path in (tmp_path / "online").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)


def test_erasure_leaves_no_byte_of_key_or_value_in_any_file(store: LmdbOnlineStore, tmp_path: Path) -> None:
    folder = tmp_path / "online"
    clients = [f"c{index}" for index in range(300)]
    traces: set[bytes] = set()
    for round_number in range(4):
        store.write(VIEW, clients, values(*[[round_number, 1.0]] * 300, event_us=round_number), round_number)
        sealing = Sealing(KEY)
        (key,) = sealing.entity_keys("behaviour", ["c17"])
        traces |= {key, stored_bytes(store, key)[21:]}
    # The old values are still there in freed pages: this is what makes plain deletion not enough.
    assert sum(occurrences(folder, trace) > 0 for trace in traces) > 2
    assert store.erase(["behaviour"], "c17").remaining == 0
    for trace in traces:
        assert occurrences(folder, trace) == 0
        assert occurrences(folder, trace[:16]) == 0
    assert store.count() == 299
    assert len(list(folder.iterdir())) == 1


def test_a_value_moved_to_another_entity_or_changed_does_not_open(
    store: LmdbOnlineStore, reopen: Open, tmp_path: Path
) -> None:
    store.write(VIEW, ["a", "b"], values([1.0, 2.0], [3.0, 4.0]), 500)
    store.close()
    (generation,) = (tmp_path / "online").iterdir()
    key_a, key_b = Sealing(KEY).entity_keys("behaviour", ["a", "b"])
    with lmdb.open(str(generation)) as environment, environment.begin(write=True) as transaction:
        transaction.put(key_a, transaction.get(key_b))
        changed = bytearray(transaction.get(key_b))
        changed[-1] ^= 1
        transaction.put(key_b, bytes(changed))
    again = reopen()
    for entity in ("a", "b"):
        with pytest.raises(DataLossError):
            again.read(VIEW, [entity])
    again.close()


def test_another_key_finds_nothing(store: LmdbOnlineStore, tmp_path: Path) -> None:
    store.write(VIEW, ["a"], values([1.0, 2.0]), 500)
    store.close()
    other = LmdbOnlineStore(tmp_path / "online", Sealing(bytes(32)), map_size_mib=64)
    assert other.read(VIEW, ["a"]).event_us[0] < 0
    other.close()


def test_a_full_store_says_so_and_goes_on_reading(tmp_path: Path) -> None:
    small = LmdbOnlineStore(tmp_path / "small", Sealing(KEY), map_size_mib=1)
    small.write(VIEW, ["a"], values([1.0, 2.0]), 500)
    clients = [f"c{index}" for index in range(20_000)]
    with pytest.raises(ResourceExhaustedError, match="1 MiB"):
        small.write(VIEW, clients, values(*[[1.0, 2.0]] * 20_000), 500)
    assert small.read(VIEW, ["a", "c1"]).event_us.tolist() == [100, np.iinfo(np.int64).min]
    small.close()


@pytest.mark.parametrize("crash", ["while copying", "before the old one was removed"])
def test_a_crash_during_an_erasure_is_cleaned_up(
    store: LmdbOnlineStore, reopen: Open, tmp_path: Path, crash: str
) -> None:
    folder = tmp_path / "online"
    store.write(VIEW, ["a"], values([1.0, 2.0]), 500)
    store.close()
    if crash == "while copying":
        left = folder / "generation-00000002.partial"
        left.mkdir()
        (left / "data.mdb").write_bytes(b"half a copy")
    else:
        old = folder / "generation-00000001"
        newer = LmdbOnlineStore(tmp_path / "newer", Sealing(KEY), map_size_mib=64)
        newer.write(VIEW, ["a"], values([5.0, 6.0]), 500)
        newer.close()
        (tmp_path / "newer" / old.name).rename(folder / "generation-00000002")
    again = reopen()
    assert again.read(VIEW, ["a"]).values.tolist() == [[1.0, 2.0] if crash == "while copying" else [5.0, 6.0]]
    assert len(list(folder.iterdir())) == 1
    assert again.erase(["behaviour"], "a").remaining == 0
    again.close()


def test_an_erasure_that_cannot_open_its_copy_loses_no_later_write(
    store: LmdbOnlineStore, reopen: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy had its name already, so the next start would have taken it for the newest state."""
    store.write(VIEW, ["a", "b"], values([1.0, 2.0], [3.0, 4.0]), 500)
    opening = lmdb.open

    def only_partial(path: str, **options: object) -> lmdb.Environment:
        if not path.endswith(".partial"):
            raise lmdb.MemoryError("no room for the map")
        return opening(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(lmdb, "open", only_partial)
        with pytest.raises(lmdb.MemoryError):
            store.erase(["behaviour"], "b")
    store.write(VIEW, ["a"], values([5.0, 6.0], event_us=200), 600)
    store.close()
    again = reopen()
    assert again.read(VIEW, ["a"]).values.tolist() == [[5.0, 6.0]]
    assert again.erase(["behaviour"], "b").remaining == 0
    again.close()


def test_an_erasure_that_cannot_remove_the_former_generation_can_be_repeated(
    store: LmdbOnlineStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write(VIEW, ["a", "b"], values([1.0, 2.0], [3.0, 4.0]), 500)
    remove = shutil.rmtree

    def refuse(path: Path, *, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError
        remove(path, ignore_errors=True)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", refuse)
        with pytest.raises(PermissionError):
            store.erase(["behaviour"], "b")
    assert store.erase(["behaviour"], "b").remaining == 0
    assert len(list((tmp_path / "online").iterdir())) == 1
    assert store.read(VIEW, ["a"]).values.tolist() == [[1.0, 2.0]]
