"""Training sets: which rows they have, what their digest covers, and what cannot change them."""

from __future__ import annotations

import dataclasses
import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hedgerow.errors import InvalidArgumentError
from services.features.point_in_time import PointInTime
from services.features.source import ColumnType, SourceColumn, SourceContract
from services.features.source_rows import prepare_rows
from services.features.training_set import (
    FRAME_BYTES,
    Cutoff,
    LabelDefinition,
    allowed_purposes,
    build_rows,
    define_labels,
    digest,
    frames,
    read_frame,
)
from services.features.view import Feature, FeatureService, define_service
from tests.unit.features.samples import CREDIT, STATEMENTS, row, table, us, view

SERVICE = define_service("credit", [view(Feature("late", "count(*) filter (where pay_delay >= 1)", 3), "max(amount)")])
MISSED = Cutoff(us("2005-08-31"), "datasets/statements", "bool_or(pay_delay >= 1)", 1)
DEFAULTED = Cutoff(us("2005-09-30"), "datasets/statements", "bool_or(defaulted)", 0)
CONTRACTS = {"datasets/statements": STATEMENTS}
ROWS = [
    row("b", "2005-07-31", pay_delay=1, amount=5.0, defaulted=True),
    row("b", "2005-09-30", pay_delay=0, amount=6.0),
    row("a", "2005-08-31", pay_delay=0, amount=1.0, defaulted=False),
    row("a", "2005-09-15", pay_delay=2, amount=2.0),
    row("a", "2005-10-01", pay_delay=9, amount=3.0),
    row("c", "2005-10-01", pay_delay=9, amount=3.0),
]


def labels_of(*cutoffs: Cutoff, service: FeatureService = SERVICE) -> tuple[LabelDefinition, ...]:
    return define_labels(service, cutoffs, CONTRACTS)


def build(rows: Sequence[dict[str, Any]], *cutoffs: Cutoff) -> pa.Table:
    labels = labels_of(*cutoffs)
    read = frozenset().union(*(each.columns for each in SERVICE.views), *(each.expression.columns for each in labels))
    with PointInTime() as engine:
        engine.load(STATEMENTS.dataset, prepare_rows(table(rows), STATEMENTS, "client_id", read)[0])
        return build_rows(engine, SERVICE, labels)


def test_rows_labels_and_features_at_two_cutoffs() -> None:
    found = build(ROWS, MISSED, DEFAULTED)
    assert found.column_names == ["entity", "as_of_time", "label", "behaviour.late", "behaviour.f1"]
    assert found.schema.types == [pa.string(), pa.timestamp("us", tz="UTC"), pa.int8(), pa.float64(), pa.float64()]
    rows = [(each["entity"], each["as_of_time"].month, *list(each.values())[2:]) for each in found.to_pylist()]
    assert rows == [
        ("a", 8, 1, 0.0, 1.0),
        ("a", 9, 0, 1.0, 2.0),
        ("b", 8, 0, 1.0, 5.0),
        ("b", 9, 1, 1.0, 6.0),
    ]


def test_the_horizon_excludes_the_cutoff_and_includes_its_end() -> None:
    rows = [
        row("at_cutoff", "2005-08-31", pay_delay=1),
        row("after", "2005-08-31T00:00:00.000001", pay_delay=1),
        row("at_end", "2005-09-30", pay_delay=1),
        row("late", "2005-09-30T00:00:00.000001", pay_delay=1),
    ]
    assert build(rows, MISSED).column("entity").to_pylist() == ["after", "at_end"]


def test_an_entity_without_features_or_with_nulls_is_kept_with_nulls() -> None:
    found = build([row("new", "2005-09-10", pay_delay=1)], MISSED).to_pylist()
    assert [(each["entity"], each["label"], each["behaviour.late"]) for each in found] == [("new", 1, None)]


def test_an_entity_with_an_unknown_outcome_has_no_row() -> None:
    assert build([row("a", "2005-09-10", pay_delay=None)], MISSED).num_rows == 0


def test_a_row_back_filled_after_the_cutoff_changes_nothing() -> None:  # FS-06
    before = build(ROWS, MISSED, DEFAULTED)
    planted = row("a", "2005-08-15", "2005-11-02", pay_delay=8, amount=1e6)
    corrected = row("b", "2005-07-31", "2005-11-02", pay_delay=8, amount=1e6, defaulted=True)
    after = build([planted, *ROWS, corrected], MISSED, DEFAULTED)
    assert after.equals(before)
    assert digest(after) == digest(before)


def test_the_digest_does_not_depend_on_the_order_of_source_rows_but_on_every_cell() -> None:
    expected = digest(build(ROWS, MISSED, DEFAULTED))
    assert digest(build(ROWS[::-1], DEFAULTED, MISSED)) == expected
    by_hand = hashlib.sha256(b"behaviour.late\0behaviour.f1\0")
    for entity, as_of, label, late, most in (
        (b"a", MISSED.as_of_us, 1, 0.0, 1.0),
        (b"a", DEFAULTED.as_of_us, 0, 1.0, 2.0),
        (b"b", MISSED.as_of_us, 0, 1.0, 5.0),
        (b"b", DEFAULTED.as_of_us, 1, 1.0, 6.0),
    ):
        by_hand.update(struct.pack("<I1sqbdd", 1, entity, as_of, label, late, most))
    assert expected == by_hand.hexdigest()
    rows = build(ROWS, MISSED, DEFAULTED)
    for name in rows.column_names:
        changed = rows.to_pydict()
        changed[name][1] = {"entity": "A", "as_of_time": changed["as_of_time"][0], "label": 1}.get(name, 0.5)
        assert digest(pa.table(changed, schema=rows.schema)) != expected
    renamed = rows.rename_columns([*rows.column_names[:-1], "other"])
    assert digest(renamed) != expected
    assert digest(rows.slice(0, 3)) != expected
    assert digest(pa.concat_tables([rows.slice(0, 1), rows.slice(1)])) == expected


def test_null_and_zero_have_different_digests() -> None:
    schema = pa.schema([("entity", pa.string()), ("as_of_time", pa.timestamp("us", tz="UTC")), ("label", pa.int8())])
    base = pa.table({"entity": ["a"], "as_of_time": pa.array([0], schema.types[1]), "label": pa.array([1], pa.int8())})
    zero, null = (base.append_column("f", pa.array([each], pa.float64())) for each in (0.0, None))
    assert digest(zero) != digest(null)


def test_frames_are_complete_streams_of_bounded_size() -> None:
    count = 60_000
    rows = pa.table(
        {
            "entity": pa.array([f"{index:032x}" for index in range(count)]),
            "as_of_time": pa.array(np.zeros(count, np.int64)).view(pa.timestamp("us", tz="UTC")),
            "label": pa.array(np.zeros(count, np.int8)),
            **{f"f{index}": pa.array(np.arange(count, dtype=float)) for index in range(10)},
        }
    )
    made = list(frames(rows))
    assert len(made) > 5
    assert max(len(frame) for frame in made) < FRAME_BYTES * 1.05
    assert pa.concat_tables(read_frame(frame) for frame in made).equals(rows)
    (empty,) = frames(rows.slice(0, 0))
    assert read_frame(empty).schema == rows.schema


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"horizon_months": -1}, "training_set.cutoffs[0].horizon_months"),
        ({"horizon_months": 0}, "training_set.cutoffs[0].horizon_months"),
        ({"expression": "max(now())"}, "training_set.cutoffs[0].expression"),
        ({"expression": "pay_delay >= 1"}, "training_set.cutoffs[0].expression"),
    ],
)
def test_a_wrong_cutoff_names_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        labels_of(dataclasses.replace(MISSED, **changes))
    assert list(caught.value.fields) == [field]


def test_cutoffs_are_needed_and_have_different_times() -> None:
    for cutoffs in ((), (MISSED, dataclasses.replace(DEFAULTED, as_of_us=MISSED.as_of_us))):
        with pytest.raises(InvalidArgumentError) as caught:
            labels_of(*cutoffs)
        assert list(caught.value.fields) == ["training_set.cutoffs"]


def test_an_outcome_dataset_must_name_the_same_entity() -> None:
    other = SourceContract(
        dataset="datasets/outcomes",
        columns=(
            SourceColumn("client_id", ColumnType.STRING, CREDIT, pseudonymized=True),
            SourceColumn("time", ColumnType.TIMESTAMP, CREDIT),
            SourceColumn("bad", ColumnType.BOOL, frozenset({"audit"}), outcome=True),
        ),
        event_time_column="time",
        pseudonym_domain="elsewhere",
    )
    cutoff = Cutoff(us("2005-08-31"), "datasets/outcomes", "bool_or(bad)", 0)
    with pytest.raises(InvalidArgumentError) as caught:
        define_labels(SERVICE, [cutoff], {"datasets/outcomes": other})
    assert list(caught.value.fields) == ["training_set.cutoffs[0].dataset"]
    same = dataclasses.replace(other, pseudonym_domain="credit")
    labels = define_labels(SERVICE, [cutoff], {"datasets/outcomes": same})
    assert allowed_purposes(SERVICE, labels) == frozenset()
