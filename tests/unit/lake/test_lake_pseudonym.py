"""Pseudonyms against the standard library's HMAC, and field case PRV-04."""

from __future__ import annotations

import hashlib
import hmac

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.lake import pseudonym, pseudonym_column

KEY = bytes(range(32))
TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


def oracle(key: bytes, value: str) -> str:
    return hmac.new(key, value.encode(), hashlib.sha256).hexdigest()[:32]


@given(st.lists(st.none() | TEXT, max_size=30), st.binary(min_size=32, max_size=100))
def test_a_column_is_hashed_as_its_values_are(values: list[str | None], key: bytes) -> None:
    expected = [None if value is None else oracle(key, value) for value in values]
    plain = pa.array(values, pa.string())
    for column in (plain, plain.cast(pa.large_string()), plain.dictionary_encode(), plain.cast(pa.string_view())):
        assert pseudonym_column(key, column).to_pylist() == expected
    assert [None if value is None else pseudonym(key, value) for value in values] == expected


def test_nulls_inside_a_dictionary_stay_null() -> None:
    column = pa.DictionaryArray.from_arrays(pa.array([1, 0, None, 1]), pa.array([None, "a"]))
    assert pseudonym_column(KEY, column).to_pylist() == [oracle(KEY, "a"), None, None, oracle(KEY, "a")]


def test_prv_04_a_pseudonym_cannot_be_found_by_trying_all_numbers_without_the_key() -> None:
    number = "0471234567"
    made = pseudonym(KEY, number)
    candidates = {hashlib.sha256(f"047123{i:04d}".encode()).hexdigest()[:32] for i in range(10_000)}
    assert made not in candidates
    other_keys = {pseudonym(hashlib.sha256(bytes([i])).digest(), number) for i in range(100)}
    assert made not in other_keys, "unlinkable across domains"
    assert made == pseudonym(KEY, number), "stable within a domain"


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        pseudonym(b"short", "a")
