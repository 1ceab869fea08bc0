"""What an address may be: one place, several replicas, or a name that stands for several."""

from __future__ import annotations

import json

import pytest

from hedgerow.channel import balancing, target_of
from hedgerow.errors import InvalidArgumentError


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("127.0.0.1:7444", "127.0.0.1:7444"),
        ("features.example:7444", "features.example:7444"),
        ("dns:///features.hedgerow.svc:7444", "dns:///features.hedgerow.svc:7444"),
        ("127.0.0.1:7444,127.0.0.1:7464", "ipv4:127.0.0.1:7444,127.0.0.1:7464"),
        ("127.0.0.1:7444, 127.0.0.1:7464", "ipv4:127.0.0.1:7444,127.0.0.1:7464"),
        ("[::1]:7444,[::1]:7464", "ipv6:[::1]:7444,[::1]:7464"),
    ],
)
def test_an_address_becomes_a_target(address: str, target: str) -> None:
    assert target_of(address) == target


@pytest.mark.parametrize(
    "address", ["127.0.0.1:7444,", "127.0.0.1:7444,features:7464", "127.0.0.1:7444,127.0.0.1:0", "127.0.0.1:1,[::1]:2"]
)
def test_what_is_no_address_is_refused_in_words(address: str) -> None:
    with pytest.raises(InvalidArgumentError, match="replicas"):
        target_of(address)


def test_only_several_replicas_are_balanced() -> None:
    assert not balancing("127.0.0.1:7444")
    for address in ("127.0.0.1:1,127.0.0.1:2", "dns:///features:7444"):
        [(option, value)] = balancing(address)
        assert option == "grpc.service_config"
        config = json.loads(value)
        assert config["loadBalancingConfig"] == [{"round_robin": {}}]
        assert config["healthCheckConfig"] == {"serviceName": ""}
