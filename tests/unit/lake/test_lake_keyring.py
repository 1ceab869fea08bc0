"""Data keys under key-encryption keys: 256 bits on every level, bounded in number and age."""

from __future__ import annotations

import pytest

from hedgerow.errors import DataLossError, PermissionDeniedError
from libs.lake.keyring import Envelope
from tests.unit.lake.lake_fixtures import KeyService

DATA_KEY = bytes(range(32))


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def envelope(service: KeyService, clock: Clock, *, capacity: int = 4) -> Envelope:
    return Envelope(unwrap=service.unwrap, wrap=service.wrap, lifetime=10.0, capacity=capacity, clock=clock)


def test_one_wrap_per_key_and_lifetime() -> None:
    service, clock = KeyService(), Clock()
    sealer = envelope(service, clock)
    texts = [sealer.seal("keys/a", DATA_KEY) for _ in range(5)]
    assert service.wrapped_lengths == [32], "the key-encryption key has 256 bits"
    assert len(set(texts)) == 5
    clock.now = 10.0
    sealer.seal("keys/a", DATA_KEY)
    assert service.wrapped_lengths == [32, 32]


def test_one_unwrap_per_key_encryption_key() -> None:
    service, clock = KeyService(), Clock()
    text = envelope(service, clock).seal("keys/a", DATA_KEY)
    reader = envelope(service, clock)
    assert [reader.open("keys/a", text) for _ in range(3)] == [DATA_KEY] * 3
    assert service.unwraps == 1


def test_the_number_of_held_keys_is_bounded() -> None:
    service, clock = KeyService(), Clock()
    texts = {f"keys/{i}": envelope(service, clock).seal(f"keys/{i}", DATA_KEY) for i in range(6)}
    reader = envelope(service, clock, capacity=4)
    for name, text in texts.items():
        assert reader.open(name, text) == DATA_KEY
    reader.open("keys/5", texts["keys/5"])
    assert service.unwraps == 6
    reader.open("keys/0", texts["keys/0"])
    assert service.unwraps == 7


@pytest.mark.parametrize("text", ["", "h1", "h1.a.b.c", "h1.!!.AAAA", "h2.AAAA.AAAA", "h1.AAAA.AAAA"])
def test_malformed_key_material_is_data_loss(text: str) -> None:
    with pytest.raises(DataLossError):
        envelope(KeyService(), Clock()).open("keys/a", text)


def test_key_material_under_another_name_is_data_loss() -> None:
    service = KeyService()
    service.keys["keys/b"] = service.keys["keys/a"] = bytes(32)
    text = envelope(service, Clock()).seal("keys/a", DATA_KEY)
    with pytest.raises(DataLossError):
        envelope(service, Clock()).open("keys/b", text)


def test_a_ring_that_only_reads_cannot_seal() -> None:
    service = KeyService()
    reader = Envelope(unwrap=service.unwrap, wrap=None, lifetime=1.0, capacity=1, clock=Clock())
    with pytest.raises(PermissionDeniedError):
        reader.seal("keys/a", DATA_KEY)
