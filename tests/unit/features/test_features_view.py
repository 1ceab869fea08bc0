"""Views and feature services: inherited limits, and every way to define them wrongly."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from hedgerow.errors import InvalidArgumentError
from services.features.source import ColumnType, SourceColumn, SourceContract
from services.features.view import Feature, define_service, define_view
from tests.unit.features.samples import CREDIT, STATEMENTS, view


def refused(**changes: Any) -> dict[str, str]:
    parts: dict[str, Any] = {
        "view_id": "v",
        "contract": STATEMENTS,
        "entity_column": "client_id",
        "features": [Feature("f", "max(amount)")],
        **changes,
    }
    with pytest.raises(InvalidArgumentError) as caught:
        define_view(**parts)
    return caught.value.fields


def test_purposes_are_those_that_all_columns_allow_and_tags_are_all_of_theirs() -> None:
    both = view("max(amount)", "max(pay_delay)")
    assert both.purposes == {"credit_risk"}
    assert both.tags == {"sensitive"}
    protected = view("max(amount)", "count(distinct sex)")
    assert protected.purposes == {"fairness_audit"}
    assert protected.tags == {"sensitive", "pii"}
    assert view("count(*)").purposes == {"credit_risk", "fairness_audit"}


def test_no_common_purpose_is_refused() -> None:
    features = [Feature("a", "max(pay_delay)"), Feature("b", "count(distinct sex)")]
    assert list(refused(features=features)) == ["feature_view.features"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"features": []}, "feature_view.features"),
        ({"features": [Feature("Bad", "max(amount)")]}, "feature_view.features[0].name"),
        ({"features": [Feature("", "max(amount)")]}, "feature_view.features[0].name"),
        ({"features": [Feature("f", "max(amount)")] * 2}, "feature_view.features[1].name"),
        ({"features": [Feature("f", "max(amount)", -1)]}, "feature_view.features[0].window_months"),
        (
            {"features": [Feature("f", "max(amount)", mutable_fraction=float("nan"))]},
            "feature_view.features[0].mutable_fraction",
        ),
        ({"features": [Feature("g", "max(amount)"), Feature("f", "now()")]}, "feature_view.features[1].expression"),
        ({"ttl_seconds": -1}, "feature_view.ttl_seconds"),
        ({"entity_column": "nobody"}, "feature_view.entity_column"),
        ({"entity_column": "statement_time"}, "feature_view.entity_column"),
        ({"entity_column": "sex"}, "feature_view.entity_column"),
    ],
)
def test_the_field_at_fault_is_named(changes: dict[str, Any], field: str) -> None:
    assert list(refused(**changes)) == [field]


def test_a_subject_must_be_pseudonymized_to_be_an_entity() -> None:
    raw = dataclasses.replace(
        STATEMENTS,
        columns=(SourceColumn("client_id", ColumnType.STRING, CREDIT), *STATEMENTS.columns[1:]),
    )
    assert "erasure" in refused(contract=raw)["feature_view.entity_column"]


def test_the_schema_version_changes_with_the_meaning_and_not_with_words() -> None:
    first = view(Feature("f", "max(amount)", 3))
    assert first.schema_version == view(Feature("f", "max(amount)", 3, description="new words")).schema_version
    for other in (Feature("g", "max(amount)", 3), Feature("f", "min(amount)", 3), Feature("f", "max(amount)", 4)):
        assert view(other).schema_version != first.schema_version


def test_a_feature_service_has_the_features_of_its_views_in_order() -> None:
    service = define_service(
        "s", [view(Feature("b", "max(amount)"), Feature("a", "min(amount)")), view("max(flag)", view_id="other")]
    )
    assert service.feature_names == ("behaviour.b", "behaviour.a", "other.f0")
    assert service.purposes == {"credit_risk"}


def test_views_of_one_feature_service_must_fit_together() -> None:
    accounts = SourceContract(
        dataset="datasets/accounts",
        columns=(
            SourceColumn("account", ColumnType.INT64, CREDIT),
            SourceColumn("opened", ColumnType.TIMESTAMP, CREDIT),
        ),
        event_time_column="opened",
    )
    account_view = define_view("accounts", accounts, "account", [Feature("n", "count(*)")])
    protected = view("count(distinct sex)", view_id="protected")
    for views, field in (
        ([], "feature_service.feature_views"),
        ([view("max(amount)")] * 2, "feature_service.feature_views"),
        ([view("max(amount)"), account_view], "feature_service.feature_views[1]"),
        ([view("max(pay_delay)"), protected], "feature_service.feature_views"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            define_service("s", views)
        assert list(caught.value.fields) == [field]


def test_a_contract_survives_storage() -> None:
    assert SourceContract.from_json(STATEMENTS.to_json()) == STATEMENTS


def test_a_column_name_that_would_break_sql_cannot_be() -> None:
    with pytest.raises(ValueError, match="column name"):
        SourceColumn('a"; drop', ColumnType.STRING, CREDIT)
