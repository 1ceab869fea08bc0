"""Expressions: what is let through, what is refused, and what the engine gets."""

from __future__ import annotations

import pytest

from hedgerow.errors import InvalidArgumentError
from services.features.expression import compile_expression
from services.features.point_in_time import PointInTime
from tests.unit.features.samples import STATEMENTS, view

FIELD = "feature_view.features[0].expression"


def refused(text: str, *, outcomes_allowed: bool = False) -> str:
    with pytest.raises(InvalidArgumentError) as caught:
        compile_expression(text, STATEMENTS, field=FIELD, outcomes_allowed=outcomes_allowed)
    assert caught.value.reason == "FIELD_INVALID"
    assert list(caught.value.fields) == [FIELD]
    return caught.value.fields[FIELD]


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("max(pay_delay)", {"pay_delay"}),
        ("MAX(Pay_Delay)", {"pay_delay"}),
        ("arg_max(amount, event_time)", {"amount", "statement_time"}),
        ("arg_max_null(amount, event_time)", {"amount", "statement_time"}),
        ("bool_or(pay_delay >= 1)", {"pay_delay"}),
        ("count(*) filter (where pay_delay >= 1)", {"pay_delay"}),
        ("count(*)", set()),
        ("count(distinct sex)", {"sex"}),
        ("sum(amount) / nullif(max(pay_delay), 0)", {"amount", "pay_delay"}),
        ("regr_slope(amount, epoch(event_time))", {"amount", "statement_time"}),
        ("avg(case when sex = 'F' then 1 else 0 end)", {"sex"}),
        ("quantile_cont(amount, 0.5)", {"amount"}),
        ("date_diff('day', min(event_time), max(event_time))", {"statement_time"}),
        ("coalesce(max(amount), 0) -- a comment", {"amount"}),
        ("sum(cast(pay_delay as double))", {"pay_delay"}),
    ],
)
def test_allowed_expressions_name_the_columns_they_read(text: str, columns: set[str]) -> None:
    expression = compile_expression(text, STATEMENTS, field=FIELD, outcomes_allowed=False)
    assert expression.columns == columns
    assert "--" not in expression.sql


@pytest.mark.parametrize(
    "text",
    [
        "(select max(pay_delay) from rows_0)",
        "max(pay_delay) from rows_0",
        "max(pay_delay); drop table rows_0",
        "max(pay_delay), 1",
        "max(pay_delay) as x",
        "distinct max(pay_delay)",
        "max(pay_delay) over ()",
        "list(amount)",
        "max(amount order by event_time)",
        "sum(distinct amount)",
        "sum(amount) filter (where sex in (select 1))",
        "max(amount) filter (where sum(amount) > 1)",
        "max(sum(amount))",
        "read_csv('/etc/passwd')",
        "getenv('HOME')",
        "max(random())",
        "max(current_date)",
        "now()",
        "max(?)",
        "max($1)",
        "max(columns(*))",
        "*",
        "max(rows_0.amount)",
        "max(sex::json)",
        "pay_delay",
        "max(amount) + pay_delay",
        "max(nothing)",
        'max("amount""; --")',
        "1",
        "",
        "   ",
        "max(",
        "(" * 400 + "max(amount)" + ")" * 400,
        "max(amount)" + " + 1" * 200,
        "max(amount) " + " " * 1_000,
    ],
)
def test_everything_else_is_refused_with_the_field_named(text: str) -> None:
    assert refused(text)


def test_an_outcome_is_for_labels_only() -> None:
    assert "outcome" in refused("bool_or(defaulted)")
    label = compile_expression("bool_or(defaulted)", STATEMENTS, field=FIELD, outcomes_allowed=True)
    assert label.columns == {"defaulted"}


def test_the_refusal_lists_the_columns_that_there_are() -> None:
    said = refused("max(balance)")
    assert "'balance'" in said
    assert "pay_delay" in said
    assert "defaulted" not in said


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("max(sex)", "VARCHAR"),
        ("max(event_time)", "TIMESTAMP"),
        ("max(amount, 2)", "DOUBLE[]"),
        ("sum(sex)", "does not fit"),
    ],
)
def test_types_that_no_feature_can_have_are_refused(text: str, why: str) -> None:
    with PointInTime() as engine, pytest.raises(InvalidArgumentError) as caught:
        engine.check_view(view(text))
    assert why in caught.value.fields["feature_view.features[0].expression"]


def test_a_label_must_be_a_boolean() -> None:
    label = compile_expression("max(pay_delay)", STATEMENTS, field="x", outcomes_allowed=True)
    with PointInTime() as engine, pytest.raises(InvalidArgumentError) as caught:
        engine.check_label(STATEMENTS, label, field="training_set.cutoffs[1].expression")
    assert "BIGINT" in caught.value.fields["training_set.cutoffs[1].expression"]
