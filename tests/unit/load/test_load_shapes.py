"""Shapes: never more users than the peak, never fewer than one of each kind, and an end."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.shapes import SHAPES, users_at


@given(shape=st.sampled_from(sorted(SHAPES)), part=st.floats(0, 0.999), peak=st.integers(1, 500))
def test_users_stay_between_the_least_and_the_peak(shape: str, part: float, peak: int) -> None:
    users = users_at(shape, part * 60, 60, peak, 14)
    assert users is not None
    assert min(14, peak) <= users <= peak


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ("ramp", [10, 40, 80, 100, 100]),
        ("step", [20, 40, 60, 80, 100]),
        ("spike", [25, 25, 100, 25, 25]),
        ("soak", [20, 100, 100, 100, 100]),
    ],
)
def test_each_shape_has_its_form(shape: str, expected: list[int]) -> None:
    times = [0.0, 20.0, 40.0, 60.0, 80.0]
    assert [users_at(shape, time, 100, 100, 10) for time in times] == expected


def test_a_run_ends() -> None:
    assert users_at("ramp", 60.0, 60.0, 10, 1) is None
