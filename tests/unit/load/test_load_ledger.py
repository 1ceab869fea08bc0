"""The ledger against a plain list: percentiles, sums, and what several workers send."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.ledger import MAX_ERRORS, OTHER, Latencies, Ledger, Result

LATENCIES = st.lists(st.floats(0.0001, 100), min_size=1, max_size=200)
RESULTS = st.lists(
    st.builds(
        Result,
        service=st.sampled_from(["a", "b"]),
        name=st.just("Call"),
        begin=st.integers(1_000, 1_010).map(float),
        seconds=st.floats(0.0001, 5),
        sent=st.integers(0, 100),
        received=st.integers(0, 100),
        error=st.sampled_from(["", "UNAVAILABLE DOWN"]),
        attempts=st.integers(1, 3),
    ),
    max_size=60,
)


@given(LATENCIES, st.floats(0.01, 1.0))
def test_a_percentile_is_that_of_the_sorted_list_within_two_percent(seconds: list[float], share: float) -> None:
    counted = Latencies()
    for each in seconds:
        counted.add(each)
    exact = sorted(seconds)[max(0, math.ceil(share * len(seconds)) - 1)] * 1000
    # The bucket may also hold the neighbour when the share falls on the edge between two, up to rounding.
    assert counted.percentile_ms(share) >= exact * 0.999_999
    assert any(each * 1000 <= counted.percentile_ms(share) <= each * 1000 * 1.021 for each in seconds)


def test_nothing_has_no_percentile() -> None:
    assert math.isnan(Latencies().percentile_ms(0.5))


def test_what_came_within_a_time_is_counted() -> None:
    counted = Latencies()
    for each in (0.1, 0.5, 0.9, 1.1, 3.0):
        counted.add(each)
    assert counted.within(1.0) == 3


@given(RESULTS, st.integers(0, 60))
def test_two_workers_make_one_ledger(results: list[Result], cut: int) -> None:
    whole, left, right = Ledger(), Ledger(), Ledger()
    for index, result in enumerate(results):
        whole.add(result)
        (left if index < cut else right).add(result)
    left.add_generator("one", 0.5, 1.0, [0.01])
    right.add_generator("two", 0.9, 1.0, [0.02])
    for process, cpu in (("one", 0.5), ("two", 0.9)):
        whole.add_generator(process, cpu, 1.0, [0.01 if process == "one" else 0.02])
    left.merge(Ledger.from_json(json.loads(json.dumps(right.to_json()))))
    assert left.to_json() == whole.to_json()
    assert left.busiest() == pytest.approx(0.9)


@given(RESULTS)
def test_counts_and_sizes_are_those_of_the_calls(results: list[Result]) -> None:
    ledger = Ledger()
    for result in results:
        ledger.add(result)
    assert sum(tally.calls for tally in ledger.services.values()) == len(results)
    assert sum(tally.failed for tally in ledger.services.values()) == sum(bool(each.error) for each in results)
    assert sum(tally.sent for tally in ledger.services.values()) == sum(each.sent for each in results)
    assert sum(tally.retried for tally in ledger.services.values()) == sum(each.attempts > 1 for each in results)
    seconds = [tally for tallies in ledger.seconds.values() for tally in tallies.values()]
    assert sum(tally.calls for tally in seconds) == len(results)


def test_the_kinds_of_errors_are_bounded() -> None:
    ledger = Ledger()
    for number in range(MAX_ERRORS * 3):
        ledger.add(Result("a", "Call", 0.0, 0.1, error=f"CODE {number}"))
    assert len(ledger.errors) == MAX_ERRORS + 1
    assert ledger.errors[OTHER] == MAX_ERRORS * 2
