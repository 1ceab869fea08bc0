"""The online store in Valkey: the conformance suite, and what is particular to this engine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import redis

from hedgerow.errors import DataLossError, FailedPreconditionError, ResourceExhaustedError, UnavailableError
from services.features.online_store import OnlineStore
from services.features.online_store.lmdb import LmdbOnlineStore
from services.features.online_store.sealing import Sealing
from services.features.online_store.valkey import ValkeyOnlineStore
from services.features.online_store.valkey_address import ValkeyAddress, parse_address
from suite.backing.valkey import Valkey
from tests.conformance.stores.online_store_conformance import VIEW, OnlineStoreConformance, Open, occurrences, values
from tests.support.backing import start
from tests.support.openbao import free_port, stop

KEY = bytes(range(32))


@pytest.fixture(scope="module")
def address(valkey: Valkey) -> ValkeyAddress:
    settings = valkey.service_environment("features")
    return parse_address(settings["HEDGEROW_ONLINE_URL"], Path(settings["HEDGEROW_ONLINE_PASSWORD_FILE"]))


@pytest.fixture
def raw(address: ValkeyAddress) -> Iterator[redis.Redis]:
    """An emptied server as its administrator sees it."""
    pool = redis.ConnectionPool(connection_class=redis.SSLConnection, **address.connection())
    client = redis.Redis.from_pool(pool)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def reopen(address: ValkeyAddress, raw: redis.Redis) -> Open:
    return lambda: ValkeyOnlineStore(address, Sealing(KEY))


@pytest.fixture
def store(reopen: Open) -> Iterator[OnlineStore]:
    opened = reopen()
    yield opened
    opened.close()


class TestValkey(OnlineStoreConformance):
    """The rules of the port."""


def test_lmdb_opens_the_bytes_that_valkey_holds(store: OnlineStore, raw: redis.Redis, tmp_path: Path) -> None:
    block = np.array([[np.nextafter(1.0, 2.0), np.nan], [3.0, -0.0]])
    store.write(VIEW, ["a", "b"], values(*block), 500)
    lmdb_store = LmdbOnlineStore(tmp_path / "online", Sealing(KEY), map_size_mib=16)
    with lmdb_store._environment.begin(write=True) as transaction:
        for key in raw.scan_iter():
            transaction.put(key, raw.get(key))
    assert lmdb_store.read(VIEW, ["b", "a"]).values.tobytes() == block[::-1].tobytes()
    lmdb_store.close()


def test_nothing_is_in_clear_on_the_server(store: OnlineStore, raw: redis.Redis, valkey: Valkey) -> None:
    block = np.array([[1234.5678, 8765.4321]])
    store.write(VIEW, ["alice-pseudonym"], values(*block), 500)
    for needle in (b"alice", b"behaviour", KEY, block.tobytes(), block[0, :1].tobytes()):
        assert occurrences(valkey.folder / "appendonlydir", needle) == 0


def test_an_erasure_leaves_no_byte_of_the_key_in_the_files_of_the_server(
    store: OnlineStore, raw: redis.Redis, valkey: Valkey
) -> None:
    store.write(VIEW, ["a", "b"], values([1.0, 2.0], [3.0, 4.0]), 500)
    erased_key, kept_key = Sealing(KEY).entity_keys(VIEW.view_id, ["a", "b"])
    sealed = raw.get(erased_key)
    assert sealed is not None
    assert store.erase([VIEW.view_id], "a").objects_rewritten == 2
    assert occurrences(valkey.folder, erased_key) == occurrences(valkey.folder, sealed) == 0
    assert raw.exists(kept_key)


def test_a_changed_value_is_refused(store: OnlineStore, raw: redis.Redis) -> None:
    store.write(VIEW, ["a"], values([1.0, 2.0]), 500)
    (key,) = raw.scan_iter()
    content = bytearray(raw.get(key))
    content[-1] ^= 1
    raw.set(key, bytes(content))
    with pytest.raises(DataLossError):
        store.read(VIEW, ["a"])


def test_a_full_store_refuses_and_keeps_what_it_has(store: OnlineStore, raw: redis.Redis) -> None:
    store.write(VIEW, ["a"], values([1.0, 2.0]), 500)
    limit = raw.config_get("maxmemory")["maxmemory"]
    raw.config_set("maxmemory", "1")
    try:
        with pytest.raises(ResourceExhaustedError):
            store.write(VIEW, ["b"], values([3.0, 4.0]), 500)
        assert store.read(VIEW, ["a"]).values.tolist() == [[1.0, 2.0]]
    finally:
        raw.config_set("maxmemory", limit)


def test_a_server_that_evicts_is_refused(raw: redis.Redis, reopen: Open) -> None:
    raw.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(FailedPreconditionError, match="noeviction"):
            reopen()
    finally:
        raw.config_set("maxmemory-policy", "noeviction")


def test_a_wrong_password_and_an_unknown_server_are_unavailable(address: ValkeyAddress, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("wrong")
    with pytest.raises(UnavailableError, match="password"):
        ValkeyOnlineStore(replace(address, password_file=wrong), Sealing(KEY))
    with pytest.raises(UnavailableError):
        ValkeyOnlineStore(replace(address, host="localhost", port=free_port()), Sealing(KEY))


def test_a_server_of_another_authority_is_not_talked_to(address: ValkeyAddress, tmp_path: Path) -> None:
    from tests.support.backing import tls_files

    stranger = tls_files(tmp_path / "tls").ca
    with pytest.raises(UnavailableError):
        ValkeyOnlineStore(replace(address, files=(("ssl_ca_certs", str(stranger)),)), Sealing(KEY))


def test_a_password_that_cannot_be_read_for_a_while(address: ValkeyAddress, raw: redis.Redis, tmp_path: Path) -> None:
    password_file = tmp_path / "password"
    assert address.password_file is not None
    password_file.write_text(address.password_file.read_text())
    store = ValkeyOnlineStore(replace(address, password_file=password_file), Sealing(KEY))
    try:
        store._client.connection_pool.disconnect()
        password_file.rename(tmp_path / "moved")
        for _ in range(2):
            with pytest.raises(UnavailableError, match="password cannot be read"):
                store.count()
        (tmp_path / "moved").rename(password_file)
        assert store.count() == 0
    finally:
        store.close()


@pytest.mark.parametrize("command", ["bgsave", "bgrewriteaof"])
def test_a_user_who_may_not_have_files_rewritten_is_told_so(store: OnlineStore, raw: redis.Redis, command: str) -> None:
    store.write(VIEW, ["a"], values([1.0, 2.0]), 500)
    raw.execute_command("ACL", "SETUSER", "default", f"-{command}")
    try:
        with pytest.raises(FailedPreconditionError, match="BGREWRITEAOF and BGSAVE"):
            store.erase([VIEW.view_id], "a")
    finally:
        raw.execute_command("ACL", "SETUSER", "default", f"+{command}")
    assert store.erase([VIEW.view_id], "a").remaining == 0


def test_an_erasure_reaches_a_snapshot_from_before_the_last_start(tmp_path: Path) -> None:
    from tests.support.backing import tls_files

    server = Valkey(tmp_path / "server", free_port(), tls_files(tmp_path / "tls"))
    process = start(server, tmp_path)
    there = parse_address(server.service_environment("features")["HEDGEROW_ONLINE_URL"], server.password_file)
    store = ValkeyOnlineStore(there, Sealing(KEY))
    (erased_key,) = Sealing(KEY).entity_keys(VIEW.view_id, ["a"])
    try:
        store.write(VIEW, ["a"], values([1.0, 2.0]), 500)
        store._client.save()
        stop(process)
        process = start(server, tmp_path)
        assert not store._info("persistence")["rdb_saves"]
        assert occurrences(server.folder, erased_key)
        assert store.erase([VIEW.view_id], "a").values == 1
        assert occurrences(server.folder, erased_key) == 0
    finally:
        store.close()
        stop(process)


def test_values_survive_the_end_of_the_server(tmp_path: Path) -> None:
    from tests.support.backing import tls_files

    server = Valkey(tmp_path / "server", free_port(), tls_files(tmp_path / "tls"))
    process = start(server, tmp_path)
    settings = server.service_environment("features")
    there = parse_address(settings["HEDGEROW_ONLINE_URL"], server.password_file)
    store = ValkeyOnlineStore(there, Sealing(KEY))
    try:
        store.write(VIEW, ["a"], values([1.0, 2.0]), 500)
        stop(process)
        with pytest.raises(UnavailableError):
            store.read(VIEW, ["a"])
        process = start(server, tmp_path)
        assert store.read(VIEW, ["a"]).values.tolist() == [[1.0, 2.0]]
    finally:
        store.close()
        stop(process)
