"""The autoscaler's formula, windows and limits, on cases worked out by hand, and on the policies of the manifests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.autoscaler import Autoscaler, desire
from simulator.basis import load_basis
from simulator.cost import Prices, Requests, load_requests
from simulator.demand import Day
from simulator.policies import Direction, Limit, Policy, PolicyError, load_policies
from simulator.replay import replay

FREE = Direction(0, [Limit(True, 10_000, 15)])
POLICY = Policy("p", "inference", 2, 10, 16.0, FREE, FREE)


@pytest.mark.parametrize(
    ("replicas", "ready", "in_flight", "desired"),
    [
        (2, 2, 32.0, 2),  # on target
        (2, 2, 35.0, 2),  # 1.094 of it: tolerated
        (2, 2, 36.0, 3),  # 1.125
        (4, 4, 128.0, 8),
        (4, 4, 16.0, 1),
        (4, 2, 64.0, 4),  # two are starting: with them it is on target
        (4, 2, 160.0, 10),  # 2.5 with all four
        (3, 0, 50.0, 3),  # nothing is known
    ],
)
def test_the_formula(replicas: int, ready: int, in_flight: float, desired: int) -> None:
    assert desire(replicas, ready, in_flight, 16.0) == desired


@given(st.lists(st.floats(0, 5000), min_size=1, max_size=40))
def test_replicas_stay_within_their_bounds(loads: list[float]) -> None:
    scaler, replicas = Autoscaler(POLICY), 2
    for step, load in enumerate(loads):
        replicas = scaler.decide(step * 15.0, replicas, replicas, load)
        assert 2 <= replicas <= 10


def test_down_waits_for_its_window() -> None:
    scaler = Autoscaler(replace(POLICY, down=Direction(300, [Limit(True, 100, 15)])))
    assert scaler.decide(0.0, 8, 8, 128.0) == 8
    for now in range(15, 301, 15):
        assert scaler.decide(float(now), 8, 8, 32.0) == 8
    assert scaler.decide(315.0, 8, 8, 32.0) == 2


def test_down_takes_no_more_than_its_limit_in_a_period() -> None:
    scaler = Autoscaler(replace(POLICY, down=Direction(0, [Limit(False, 1, 60)])))
    seen, replicas = [], 8
    for now in range(0, 136, 15):
        replicas = scaler.decide(float(now), replicas, replicas, 16.0)
        seen.append(replicas)
    assert seen == [7, 7, 7, 7, 6, 6, 6, 6, 5, 5]


def test_up_doubles_at_most_in_a_period() -> None:
    scaler = Autoscaler(replace(POLICY, up=Direction(0, [Limit(True, 100, 30)])))
    seen, replicas = [], 2
    for now in range(0, 61, 15):
        replicas = scaler.decide(float(now), replicas, replicas, 1000.0)
        seen.append(replicas)
    assert seen == [4, 4, 8, 8, 10]


def test_the_widest_limit_holds_unless_the_narrowest_is_asked_for() -> None:
    limits = [Limit(True, 100, 15), Limit(False, 4, 15)]
    wide, narrow = (replace(POLICY, up=Direction(0, limits, widest=widest)) for widest in (True, False))
    assert Autoscaler(wide).decide(0.0, 2, 2, 1000.0) == 6
    assert Autoscaler(narrow).decide(0.0, 2, 2, 1000.0) == 4
    assert Autoscaler(replace(POLICY, up=replace(FREE, disabled=True))).decide(0.0, 2, 2, 1000.0) == 2


def test_the_manifests_are_read() -> None:
    policies = {policy.name: policy for policy in load_policies()}
    assert set(policies) == {"hpa features", "hpa inference", "keda features", "keda inference"}
    hpa, keda = policies["hpa inference"], policies["keda inference"]
    assert replace(hpa, name="") == replace(keda, name="")
    assert hpa.down == Direction(300, [Limit(False, 1, 60)])


def test_a_replica_on_target_has_room_left() -> None:
    """A replica works on one call at a time: with ``n`` in progress on average it is busy ``n / (n + 1)`` of the time."""
    for policy in load_policies():
        assert policy.target / (policy.target + 1) < 0.85


def test_a_policy_that_says_nothing_of_its_pace_has_the_defaults_of_kubernetes(tmp_path: Path) -> None:
    (tmp_path / "scaler.yaml").write_text(
        "kind: ScaledObject\nmetadata: {name: plain}\nspec: {scaleTargetRef: {name: features}, minReplicaCount: 2, "
        "maxReplicaCount: 3, triggers: [{type: prometheus, metadata: {threshold: '4'}}]}\n"
    )
    [policy] = load_policies(tmp_path)
    assert policy.up == Direction(0, [Limit(True, 100, 15), Limit(False, 4, 15)])
    assert policy.down == Direction(300, [Limit(True, 100, 15)])


def test_a_policy_that_cannot_be_simulated_is_named(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="no autoscaling policy"):
        load_policies(tmp_path)
    (tmp_path / "cpu.yaml").write_text(
        "kind: HorizontalPodAutoscaler\nmetadata: {name: slow}\n"
        "spec: {minReplicas: 1, maxReplicas: 2, metrics: [{type: Resource}]}\n"
    )
    with pytest.raises(PolicyError, match="slow"):
        load_policies(tmp_path)


def test_an_hour_with_a_policy_costs_less_than_all_replicas_and_repeats() -> None:
    basis = replace(load_basis("inference", Path("/nonexistent")), calls_per_second=20.0)
    policy = load_policies()[1]
    day = Day(peak=60.0, seed=1)
    first, again = (replay(policy, basis, day, seconds=3600.0) for _ in range(2))
    assert first == again
    fixed = replay(policy, basis, day, fixed=policy.most, seconds=3600.0)
    assert fixed.replica_hours == pytest.approx(policy.most)
    assert policy.least <= first.replica_hours < fixed.replica_hours
    assert first.calls == sum(round(moment.rate * 15.0) for moment in first.moments)
    prices, requests = Prices(0.04, 0.01), Requests(0.5, 2.0)
    assert prices.cost(requests, 10.0) == pytest.approx(0.4)
    assert load_requests("inference").cpus > 0


def test_a_day_has_a_night_two_tops_and_a_spike() -> None:
    day = Day(peak=100.0)
    assert day.rate(3 * 3600) < 20
    assert day.rate(10.5 * 3600) == pytest.approx(100.0, rel=0.1)
    assert day.rate(14.1 * 3600) > 1.4 * day.rate(13.9 * 3600)
