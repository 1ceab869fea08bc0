"""Entity keys: one stored form per key, or a refusal; never a silent miss."""

from __future__ import annotations

import pytest

from hedgerow.errors import InvalidArgumentError
from libs.lake import pseudonym
from services.features.entity import EntityKey, canonical_keys
from services.features.source import ColumnType

NUMBER = EntityKey("account", ColumnType.INT64, "")
TEXT = EntityKey("client_id", ColumnType.STRING, "")


def test_an_integer_key_meets_itself_however_it_is_written() -> None:  # FS-14
    assert canonical_keys(["1", "+1", "01", "-7", "-0", str(2**63 - 1)], NUMBER, None) == [
        "1",
        "1",
        "1",
        "-7",
        "0",
        str(2**63 - 1),
    ]


@pytest.mark.parametrize("key", ["", "1.0", "1e3", " 1", "one", "٣", str(2**63), str(-(2**63) - 1), "9" * 400])
def test_what_is_no_int64_is_refused_by_index_and_not_quoted(key: str) -> None:  # FS-14
    with pytest.raises(InvalidArgumentError) as caught:
        canonical_keys(["5", key], NUMBER, None)
    assert list(caught.value.fields) == ["entity_keys[1]"]
    assert not key or key not in caught.value.message.removeprefix("entity_keys[1]")


@pytest.mark.parametrize("keys", [[], ["a"] * 1001])
def test_the_number_of_keys_is_bounded(keys: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        canonical_keys(keys, TEXT, None)
    assert list(caught.value.fields) == ["entity_keys"]


def test_text_keys_stay_as_they_are() -> None:
    assert canonical_keys(["01", " a "], TEXT, None) == ["01", " a "]
    for key in ("", "x" * 257):
        with pytest.raises(InvalidArgumentError):
            canonical_keys([key], TEXT, None)


def test_keys_of_a_pseudonymized_column_become_pseudonyms() -> None:
    key = bytes(range(32))
    entity = EntityKey("client_id", ColumnType.STRING, "credit")
    assert canonical_keys(["17"], entity, lambda raw: [pseudonym(key, each) for each in raw]) == [pseudonym(key, "17")]
    with pytest.raises(ValueError, match="pseudonym"):
        canonical_keys(["17"], entity, None)
