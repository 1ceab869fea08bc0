"""The queues against a plain loop and against theory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.station import Station, end_times

GAPS = st.lists(st.tuples(st.floats(0, 5), st.floats(0.001, 5)), min_size=1, max_size=60)


@given(GAPS, st.floats(0, 10))
def test_end_times_are_those_of_a_plain_loop(gaps: list[tuple[float, float]], free_at: float) -> None:
    arrivals, services = np.cumsum([gap for gap, _ in gaps]), np.array([work for _, work in gaps])
    free, expected = free_at, []
    for time, work in zip(arrivals, services, strict=True):
        free = max(free, time) + work
        expected.append(free)
    assert end_times(arrivals, services, free_at) == pytest.approx(expected)


def test_calls_that_come_evenly_and_take_less_never_wait() -> None:
    arrivals = np.arange(100) * 1.0
    assert end_times(arrivals, np.full(100, 0.9), 0.0) == pytest.approx(arrivals + 0.9)


def test_calls_that_take_more_wait_longer_each_time() -> None:
    arrivals = np.arange(100) * 1.0
    waits = end_times(arrivals, np.full(100, 1.5), 0.0) - 1.5 - arrivals
    assert waits == pytest.approx(np.arange(100) * 0.5)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_the_mean_wait_is_that_of_an_m_m_1_queue(load: float) -> None:
    """W = load / (rate of service - rate of arrival), here with a mean of one second."""
    chance = np.random.default_rng(3)
    arrivals = np.cumsum(chance.exponential(1.0 / load, 400_000))
    services = chance.exponential(1.0, 400_000)
    waits = end_times(arrivals, services, 0.0) - services - arrivals
    assert waits.mean() == pytest.approx(load / (1.0 - load), rel=0.05)


def station(mean: float = 1.0, start: float = 20.0, most: int = 10_000) -> Station:
    return Station(mean, most, start, np.random.default_rng(1))


def test_a_window_goes_on_where_the_last_one_ended() -> None:
    arrivals = np.sort(np.random.default_rng(5).random(2000)) * 2000 * 1.1
    whole, parts = station(), station()
    for each in (whole, parts):
        each.scale(1, -20.0)
    together = whole.run(arrivals, 3000.0)
    cut = len(arrivals) // 2
    first, second = parts.run(arrivals[:cut], float(arrivals[cut])), parts.run(arrivals[cut:], 3000.0)
    # The generator gives the same numbers in the same order.
    assert np.concatenate([first.delays, second.delays]) == pytest.approx(together.delays)


def test_calls_go_round_the_replicas_that_serve() -> None:
    two = station()
    two.scale(1, -20.0)
    two.scale(2, 0.0)
    assert len(two.ready(0.0)) == 1
    assert len(two.ready(20.0)) == 2
    two.run(np.arange(30.0, 40.0), 40.0)
    assert all(replica.free_at > 30.0 for replica in two.replicas)
    two.scale(1, 50.0)
    assert len(two.replicas) == 1


def test_a_full_replica_refuses_and_its_queue_stays_bounded() -> None:
    full = station(mean=1.0, most=10)
    full.scale(1, -20.0)
    window = full.run(np.linspace(0.0, 50.0, 500), 50.0)
    assert window.refused > 350
    assert window.refused + len(window.delays) == 500
    assert window.delays.max() <= 10.0
    assert 0 < window.in_flight < 40


def test_without_a_replica_everything_is_refused() -> None:
    none = station()
    none.scale(1, 0.0)
    assert none.run(np.array([1.0, 2.0]), 3.0).refused == 2
