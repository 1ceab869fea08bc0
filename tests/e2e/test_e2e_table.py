"""The tables that the walks over all RPCs read: complete, and true to the contract and the policy schema."""

import re

from tests.e2e.calling import ENROLMENT, ROOT, RPCS, SCHEMA, actions_in
from tests.e2e.entries import ENTRIES


def test_the_walk_takes_every_rpc_of_the_contract() -> None:
    sources = [proto.read_text() for proto in (ROOT / "protos").rglob("*.proto")]
    declared = {
        f"{package}.{service}"
        for source in sources
        for package in re.findall(r"^package ([\w.]+);", source, re.MULTILINE)
        for service in re.findall(r"^service (\w+)", source, re.MULTILINE)
    }
    assert declared - {rpc.method.containing_service.full_name for rpc in RPCS} == {ENROLMENT.full_name}


def test_every_rpc_has_an_entry() -> None:
    assert set(ENTRIES) == {rpc.key for rpc in RPCS}


def test_every_rpc_has_an_action() -> None:
    assert {rpc.action for rpc in RPCS} <= set(re.findall(r'"(\w+\.\w+)"', SCHEMA))


def test_every_rpc_that_uses_data_names_some() -> None:
    using = {rpc.key for rpc in RPCS if rpc.action in actions_in("data")}
    assert using == {key for key, entry in ENTRIES.items() if entry.used is not None}
