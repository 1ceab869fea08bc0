"""Specifications: every field is checked, and all faults are named at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hedgerow.errors import InvalidArgumentError
from tests.unit.training.rows import AGE, BOUNDS, SEX, training_spec


def faults(**changes: object) -> dict[str, str]:
    """The fields at fault."""
    with pytest.raises(InvalidArgumentError) as caught:
        training_spec(**changes).check()
    assert caught.value.reason == "FIELD_INVALID"
    return caught.value.fields


def test_a_good_specification_passes() -> None:
    training_spec().check()
    training_spec(protected_attributes=(), protected_feature_service="").check()


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("training_set", ["", "set1", "trainingSets/", "trainingSets/a/b", "trainingSets/Ä"]),
        ("model", ["", "models/", "model/credit"]),
        ("world_size", [0, 9, -1]),
        ("max_epochs", [0, 1001]),
        ("batch_size", [0, 1, 65_537]),
        ("learning_rate", [0.0, -1.0, float("nan"), float("inf"), 1001.0]),
        ("dropout", [-0.1, 1.0, float("nan")]),
        ("weight_decay", [-1.0, float("nan"), float("inf")]),
        ("hidden_sizes", [(), (0,), (4097,), (8,) * 9, (4096, 4096)]),
        ("protected_feature_service", ["", "protected"]),
    ],
)
def test_each_field_has_its_range(field: str, values: list[object]) -> None:
    for value in values:
        assert list(faults(**{field: value})) == [f"spec.{field}"], value


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(BOUNDS)])
def test_each_bound_has_its_range(field: str) -> None:
    for value in (-1, float("nan")) if field != "min_group_evidence" else (0, -3):
        bounds = dataclasses.replace(BOUNDS, **{field: value})
        assert list(faults(gate_bounds=bounds)) == [f"spec.gate_bounds.{field}"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"feature": "age"}, "feature"),
        ({"feature": ".age"}, "feature"),
        ({"display_name": ""}, "display_name"),
        ({"band_edges": (50.0, 30.0)}, "band_edges"),
        ({"band_edges": (30.0, 30.0)}, "band_edges"),
        ({"band_edges": (30.0, float("inf"))}, "band_edges"),
        ({"group_names": ("young", "old")}, "group_names"),
        ({"group_names": ("a", "a", "b")}, "group_names"),
        ({"group_names": ("a", "", "b")}, "group_names"),
    ],
)
def test_each_field_of_a_protected_attribute(change: dict[str, object], field: str) -> None:
    attribute = dataclasses.replace(AGE, **change)  # type: ignore[arg-type]
    assert list(faults(protected_attributes=(SEX, attribute))) == [f"spec.protected_attributes[1].{field}"]


def test_attributes_must_differ_by_their_last_part() -> None:
    again = dataclasses.replace(AGE, feature="other.sex")
    assert list(faults(protected_attributes=(SEX, again))) == ["spec.protected_attributes"]


def test_all_faults_are_named_at_once() -> None:
    found = faults(world_size=0, dropout=2.0, model="x")
    assert set(found) == {"spec.world_size", "spec.dropout", "spec.model"}


def test_groups_by_band_and_by_value() -> None:
    values = np.array([29.9, 30.0, 49.0, 50.0, 99.0, np.nan])
    assert AGE.groups_of(values).tolist() == [0, 1, 1, 2, 2, -1]
    assert SEX.groups_of(np.array([1.0, 2.0, 0.0, 3.0, 1.5, np.nan])).tolist() == [0, 1, -1, -1, -1, -1]
