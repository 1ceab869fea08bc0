"""The typed declarations of the SDK are those of the contract, and the contract says what is safe to repeat."""

from __future__ import annotations

import importlib
import typing
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from grpc_health.v1 import health_pb2

import hedgerow
from hedgerow.retry import RetryBudget, is_safe
from hedgerow.sdk import calls, rpcs, sync_rpcs
from hedgerow.sdk.calls import snake_case


def services() -> list[tuple[str, ServiceDescriptor]]:
    """Every service in the stubs but the enrolment port, which `login` reaches."""
    found = []
    for stub in sorted(Path(hedgerow.__path__[0]).glob("*/v1/*_pb2.py")):
        area = stub.parents[1].name
        module = importlib.import_module(f"hedgerow.{area}.v1.{stub.stem}")
        found += [(area, s) for s in module.DESCRIPTOR.services_by_name.values() if s.name != "EnrolmentService"]
    return found


SERVICES = services()
METHODS = [method for _, service in SERVICES for method in service.methods]


def kind(method: MethodDescriptor) -> str:
    return "ClientStream" if method.client_streaming else "ServerStream" if method.server_streaming else "Unary"


@pytest.mark.parametrize(("area", "service"), SERVICES, ids=[area for area, _ in SERVICES])
@pytest.mark.parametrize(("module", "prefix"), [(rpcs, ""), (sync_rpcs, "Sync")], ids=["async", "sync"])
def test_every_rpc_is_declared_with_its_types(area: str, service: ServiceDescriptor, module: Any, prefix: str) -> None:
    declared = typing.get_type_hints(getattr(module, f"{prefix}{area.capitalize()}Rpcs"))
    for method in service.methods:
        found = declared.pop(snake_case(method.name), None)
        line = f"{snake_case(method.name)}: {prefix}{kind(method)}[{method.input_type.name}, {method.output_type.name}]"
        assert found is not None, f"{module.__name__} lacks the line {line}"
        assert typing.get_origin(found) is getattr(calls, prefix + kind(method)), line
        assert [t.DESCRIPTOR for t in typing.get_args(found)] == [method.input_type, method.output_type], line
    assert not declared.keys() - {"service"}


def test_reads_are_marked_as_safe_and_changes_are_not() -> None:
    reads = ("Get", "List", "Watch", "Read", "Export", "Download", "Predict", "Explain", "Open")
    for method in METHODS:
        if method.name.startswith(reads):
            assert is_safe(method), f"{method.full_name} needs `option idempotency_level = NO_SIDE_EFFECTS;`"
        if (
            method.name.startswith(("Create", "Append", "Promote", "Cancel", "Erase"))
            and method.name != "CreateDataKey"
        ):
            assert not is_safe(method)
    assert is_safe(health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"])


def test_the_budget_allows_a_burst_and_then_a_tenth_of_what_succeeds() -> None:
    budget = RetryBudget()
    assert sum(budget.failed() for _ in range(200)) == 49
    assert budget.tokens == 0
    for _ in range(520):
        budget.succeeded()
    assert budget.failed()
    allowed = 0
    for _ in range(100):
        for _ in range(10):
            budget.succeeded()
        allowed += budget.failed()
    assert 95 <= allowed <= 100
    for _ in range(10_000):
        budget.succeeded()
    assert budget.tokens == 100
