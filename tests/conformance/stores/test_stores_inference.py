"""The inference service's store on each engine."""

from __future__ import annotations

import dataclasses
import datetime as dt

import pytest

from libs.artifact import Evidence
from services.inference.deployment import DeploymentRecord
from services.inference.store import DeploymentTable
from tests.conformance.stores.conftest import OpenMetadata

RECORD = DeploymentRecord(
    "credit",
    Evidence("models/credit/versions/1", "a" * 64, b"\x00manifest\xff", b"signature", 3),
    b"public",
    b"wrapped",
    dt.datetime(2026, 11, 25, 9, 30, 0, 123_456, tzinfo=dt.UTC),
)


@pytest.fixture
def store(metadata: OpenMetadata) -> DeploymentTable:
    return DeploymentTable(metadata("inference"))


def test_records_come_back_as_they_were_by_id(store: DeploymentTable) -> None:
    other = dataclasses.replace(RECORD, deployment_id="a" * 63)
    third = dataclasses.replace(RECORD, deployment_id="a-b")
    for record in (RECORD, other, third):
        store.put(record)
    assert store.all() == [third, other, RECORD]


def test_a_record_takes_the_place_of_the_one_before(store: DeploymentTable) -> None:
    store.put(RECORD)
    changed = dataclasses.replace(RECORD, wrapped_key=b"other")
    store.put(changed)
    assert store.all() == [changed]
