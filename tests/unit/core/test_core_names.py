"""Resource names and page tokens: every id survives, and nothing else passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedgerow import names
from hedgerow.errors import InvalidArgumentError

IDS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
PATTERN = "models/{model}/versions/{version}"


@given(IDS, IDS)
def test_names_round_trip(model: str, version: str) -> None:
    name = names.build(PATTERN, model=model, version=version)
    assert names.parse(PATTERN, name, field="name") == {"model": model, "version": version}


@pytest.mark.parametrize(
    "value",
    [
        "",
        "models",
        "models/a",
        "models//versions/1",
        "models/A/versions/1",
        "models/a/versions/1/x",
        "models/a\n/versions/1",
    ],
)
def test_other_forms_are_refused_with_the_field(value: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        names.parse(PATTERN, value, field="deployment.model_version")
    assert list(caught.value.fields) == ["deployment.model_version"]


@given(st.text())
def test_page_tokens_round_trip(key: str) -> None:
    token = names.encode_page_token(key)
    assert names.decode_page_token(token) == (key or None)


@pytest.mark.parametrize("token", ["*", "a", "äö", "////=", "_w"])
def test_a_foreign_page_token_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        names.decode_page_token(token)
    assert list(caught.value.fields) == ["page_token"]


def test_page_sizes_have_a_default_and_a_bound() -> None:
    assert [names.page_size(0), names.page_size(7), names.page_size(10**9)] == [100, 7, 1000]
    with pytest.raises(InvalidArgumentError):
        names.page_size(-1)


@given(st.text(max_size=80))
def test_ids_are_checked(value: str) -> None:
    import re

    if re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", value, re.ASCII):
        assert names.check_id(value, "id") == value
    else:
        with pytest.raises(InvalidArgumentError):
            names.check_id(value, "id")
