"""Which calls are answered under any load and in a drain, and which take a place."""

from __future__ import annotations

from typing import Any

from libs.rpc.health import Health, health_service
from libs.rpc.reflection import reflection_service
from libs.rpc.service import Service
from services.governance import service as governance
from services.inference import oip
from services.secrets import service as secrets

PROBES = {
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/List",
    "/grpc.health.v1.Health/Watch",
    "/inference.GRPCInferenceService/ModelReady",
    "/inference.GRPCInferenceService/ServerLive",
    "/inference.GRPCInferenceService/ServerReady",
}


class Anything:
    """Has a handler for every RPC."""

    def __getattr__(self, name: str) -> Any:
        return lambda request, call: None


def services() -> list[Service]:
    """Return those that have calls which are not audited."""
    servicer: Any = Anything()
    return [
        health_service(Health([])),
        reflection_service([]),
        governance.rpc_service(servicer),
        secrets.rpc_service(servicer),
        secrets.enrolment_service(servicer),
        oip.rpc_service(servicer, servicer.describe),
    ]


def test_probes_alone_are_always_open() -> None:
    methods = [method for service in services() for method in service.methods]
    assert {method.path for method in methods if method.access.always_open} == PROBES & {m.path for m in methods}


def test_all_but_probes_and_watches_take_a_place() -> None:
    free = {m.path for service in services() for m in service.methods if not m.takes_place} - PROBES
    assert free == {
        "/hedgerow.governance.v1.GovernanceService/WatchErasureRequest",
        "/hedgerow.governance.v1.GovernanceService/WatchPolicyBundle",
        "/hedgerow.secrets.v1.SecretsService/WatchTrust",
    }
