"""What buf cannot see: actions, pagination and reasons, walked from the descriptors."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path

import cedarpy
import pytest
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from hedgerow import errors
from libs.authz import compile_bundle
from tests.support.serving import POLICIES, project_bundle

ROOT = Path(__file__).parents[2]
SCHEMA = (ROOT / "libs/authz/hedgerow.cedarschema").read_text()
AREAS = ("secrets", "governance", "ingestion", "features", "training", "models", "inference")


def services() -> list[tuple[str, ServiceDescriptor]]:
    found = []
    for area in AREAS:
        module = importlib.import_module(f"hedgerow.{area}.v1.{area}_pb2")
        found += [(area, service) for service in module.DESCRIPTOR.services_by_name.values()]
    return found


def methods() -> list[tuple[str, MethodDescriptor]]:
    # The enrolment port has no identity yet, so no policy: it is guarded by single-use credentials and a rate limit.
    return [(area, m) for area, s in services() for m in s.methods if s.name != "EnrolmentService"]


def actions() -> set[str]:
    return set(re.findall(r'"((?:' + "|".join((*AREAS, "health", "reflection")) + r')\.\w+)"', SCHEMA))


def test_every_rpc_has_a_cedar_action_and_every_action_an_rpc() -> None:
    from grpc_health.v1 import health_pb2
    from grpc_reflection.v1alpha import reflection_pb2
    from tritonclient.grpc import service_pb2

    named = {f"{area}.{method.name}" for area, method in methods()}
    named |= {f"health.{m.name}" for m in health_pb2.DESCRIPTOR.services_by_name["Health"].methods}
    named |= {f"reflection.{m.name}" for m in reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].methods}
    named |= {f"inference.{m.name}" for m in service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods}
    assert named == actions()


@pytest.mark.parametrize("method", [m for _, m in methods() if m.name.startswith("List")], ids=lambda m: m.full_name)
def test_every_list_paginates(method: MethodDescriptor) -> None:
    assert {"page_size", "page_token"} <= set(method.input_type.fields_by_name)
    assert "next_page_token" in method.output_type.fields_by_name


@pytest.mark.parametrize("method", [m for _, m in methods() if m.name.startswith("Watch")], ids=lambda m: m.full_name)
def test_every_watch_streams(method: MethodDescriptor) -> None:
    assert method.server_streaming
    assert not method.client_streaming


def test_every_reason_is_documented_with_its_code_and_every_default_exists() -> None:
    text = (ROOT / "protos/hedgerow/errors/v1/error_reason.proto").read_text()
    documented = dict(re.findall(r"// ([A-Z_]+)\. [^\n]+(?:\n  // [^\n]+)*\n  ERROR_REASON_(\w+) = \d+;", text))
    reasons = set(re.findall(r"ERROR_REASON_(\w+) = ", text)) - {"UNSPECIFIED"}
    assert set(documented.values()) <= reasons
    codes = {cls.code_name for cls in errors._CLASSES.values()}
    pairs = re.findall(r"// ([A-Z_]+)\. [^\n]+(?:\n  // [^\n]+)*\n  ERROR_REASON_(\w+) = \d+;", text)
    assert {reason for _, reason in pairs} == reasons
    assert {code for code, _ in pairs} <= codes
    for cls in errors._CLASSES.values():
        assert (cls.code_name, cls.default_reason) in pairs


def test_every_reason_in_the_code_is_in_the_contract() -> None:
    text = (ROOT / "protos/hedgerow/errors/v1/error_reason.proto").read_text()
    reasons = set(re.findall(r"ERROR_REASON_(\w+) = ", text))
    for folder in ("hedgerow", "libs", "services"):
        for path in (ROOT / folder).rglob("*.py"):
            used = set(re.findall(r'\breason="([A-Z_]+)"', path.read_text()))
            log_only = {"VERSION_MISMATCH"}
            assert used - log_only <= reasons, f"{path.relative_to(ROOT)}: {used - log_only - reasons}"


def test_the_project_policies_fit_the_schema_and_name_known_roles() -> None:
    bundle = compile_bundle(project_bundle())
    assert bundle.version == 1
    source = "\n".join(path.read_text() for path in sorted(POLICIES.glob("*.cedar")))
    principals = json.loads((POLICIES / "principals.json").read_text())
    held = {role for fields in principals.values() for role in fields["roles"]}
    assert set(re.findall(r'Hedgerow::Role::"([\w-]+)"', source)) <= held


def test_a_policy_with_a_typing_error_is_refused() -> None:
    content = json.loads(project_bundle())
    content["policies"] = content["policies"].replace("resource.purposes.contains", "resource.purpose.contains", 1)
    with pytest.raises(errors.InvalidArgumentError) as caught:
        compile_bundle(json.dumps(content).encode())
    assert "policies" in caught.value.fields
    with pytest.raises(errors.InvalidArgumentError):
        compile_bundle(b"not json")
    assert cedarpy.Schema.from_str(SCHEMA)
