"""When a crashed process is started again."""

from hypothesis import given
from hypothesis import strategies as st

from suite.restart import EXIT_CONFIGURATION, MAX_CRASHES, MAX_DELAY, MAX_FIRST_CRASHES, WINDOW_SECONDS, RestartPolicy


def serving() -> RestartPolicy:
    policy = RestartPolicy()
    policy.served()
    return policy


def test_the_first_restart_is_immediate_and_pauses_grow_to_two_seconds() -> None:
    policy = serving()
    delays = [policy.crashed(100.0 + n, -9) for n in range(8)]
    assert delays == [0.0, 0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0]
    assert policy.restarts == 8


def test_old_crashes_are_forgotten() -> None:
    policy = serving()
    for n in range(5):
        policy.crashed(float(n), -9)
    assert policy.crashed(WINDOW_SECONDS + 5.0, -9) == 0.0


def test_it_gives_up_after_many_crashes() -> None:
    policy = serving()
    delays = [policy.crashed(float(n), 1) for n in range(MAX_CRASHES)]
    assert None not in delays[:-1]
    assert delays[-1] is None
    assert policy.restarts == MAX_CRASHES - 1


def test_it_gives_up_sooner_on_what_never_served() -> None:
    policy = RestartPolicy()
    assert [policy.crashed(float(n), 1) is None for n in range(MAX_FIRST_CRASHES)] == [False, False, True]


def test_a_configuration_fault_is_not_tried_again() -> None:
    assert serving().crashed(0.0, EXIT_CONFIGURATION) is None


@given(st.lists(st.floats(0, 300), min_size=1, max_size=60))
def test_no_pause_is_longer_than_two_seconds(gaps: list[float]) -> None:
    policy, now = serving(), 0.0
    for gap in gaps:
        now += gap
        delay = policy.crashed(now, -11)
        if delay is None:
            break
        assert 0.0 <= delay <= MAX_DELAY
        now += delay
