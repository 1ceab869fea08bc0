"""What a contract must hold, fault by fault, and what a purpose may read."""

from __future__ import annotations

import pytest

from hedgerow.errors import InvalidArgumentError, PermissionDeniedError
from services.ingestion.contract import Column, ColumnType, Contract, lake_key, validate
from tests.unit.ingestion.ingestion_fixtures import CONTRACT, changed, with_column


def test_a_good_contract_holds_and_survives_storage() -> None:
    validate(CONTRACT)
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT


@pytest.mark.parametrize(
    ("contract", "path"),
    [
        (changed(columns=()), "contract.columns"),
        (with_column("city", name="City"), "contract.columns[5].name"),
        (with_column("city", name="9city"), "contract.columns[5].name"),
        (with_column("city", name="x" * 65), "contract.columns[5].name"),
        (with_column("city", name="ratio"), "contract.columns[5].name"),
        (with_column("city", type=None), "contract.columns[5].type"),
        (with_column("city", tags=("secret",)), "contract.columns[5].tags"),
        (with_column("city", tags=("pii", "pii")), "contract.columns[5].tags"),
        (with_column("limit", pseudonymize=True), "contract.columns[2].pseudonymize"),
        (with_column("city", minimum=1.0), "contract.columns[5].minimum"),
        (with_column("ratio", maximum=float("nan")), "contract.columns[3].maximum"),
        (with_column("ratio", minimum=2.0), "contract.columns[3].maximum"),
        (with_column("sex", purposes=("Bad Purpose",)), "contract.columns[6].purposes"),
        (with_column("sex", purposes=("a", "a")), "contract.columns[6].purposes"),
        (with_column("city", description="x" * 2001), "contract.columns[5].description"),
        (changed(key_columns=()), "contract.key_columns"),
        (changed(key_columns=("client_id", "client_id")), "contract.key_columns"),
        (changed(key_columns=("none",)), "contract.key_columns[0]"),
        (changed(key_columns=("ratio",)), "contract.key_columns[0]"),
        (changed(key_columns=("limit",)), "contract.key_columns[0]"),
        (changed(event_time_column=""), "contract.event_time_column"),
        (changed(event_time_column="city"), "contract.event_time_column"),
        (with_column("opened_at", nullable=True), "contract.event_time_column"),
        (with_column("opened_at", outcome=True), "contract.event_time_column"),
        (changed(known_time_column="limit"), "contract.known_time_column"),
        (changed(subject_column="city"), "contract.subject_column"),
        (changed(subject_column="none"), "contract.subject_column"),
        (changed(subject_column=""), "contract.subject_column"),
        (changed(pseudonym_domain=""), "contract.pseudonym_domain"),
        (changed(pseudonym_domain="No Spaces"), "contract.pseudonym_domain"),
        (changed(purposes=()), "contract.purposes"),
        (changed(purposes=("credit risk",)), "contract.purposes"),
        (changed(legal_basis="because"), "contract.legal_basis"),
        (changed(retention_days=0), "contract.retention_days"),
        (changed(description="x" * 2001), "contract.description"),
    ],
)
def test_each_fault_is_named_by_its_field(contract: Contract, path: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate(contract)
    assert path in caught.value.fields
    assert caught.value.reason == "FIELD_INVALID"


def test_all_faults_come_at_once() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        validate(changed(purposes=(), legal_basis="", retention_days=-1))
    assert set(caught.value.fields) == {"contract.purposes", "contract.legal_basis", "contract.retention_days"}


def test_columns_of_other_tags_or_purposes_never_share_a_key() -> None:
    keys = CONTRACT.layout("clients").column_keys
    assert keys["client_id"].startswith("keys/ingestion-lake-clients-pii-")  # it serves the purpose of sex as well
    assert keys["city"] == keys["ratio"] == "keys/ingestion-lake-clients-plain"
    assert keys["limit"] == "keys/ingestion-lake-clients-sensitive"
    assert keys["sex"].startswith("keys/ingestion-lake-clients-sensitive-")
    assert CONTRACT.layout("clients").footer_key not in keys.values()


@pytest.mark.parametrize("purpose", ["credit_risk", "fairness_audit"])
def test_the_keys_of_a_purpose_open_no_column_that_it_may_not_read(purpose: str) -> None:
    layout = CONTRACT.layout("clients")
    granted = layout.keys_for(names(purpose))
    opened = [column for column, key in layout.column_keys.items() if key in granted]
    assert opened == names(purpose)


def test_key_names_fit_and_differ_for_long_dataset_ids() -> None:
    first, second = lake_key("a" * 62 + "b", "pii-sensitive-12345678"), lake_key("a" * 63, "pii-sensitive-12345678")
    assert first != second
    assert all(len(key.removeprefix("keys/")) <= 63 for key in (first, second))


def test_too_many_key_groups_are_refused() -> None:
    extra = tuple(Column(f"c{i}", ColumnType.BOOL, nullable=True, purposes=(f"p{i}",)) for i in range(60))
    with pytest.raises(InvalidArgumentError, match="different combinations"):
        validate(changed(columns=CONTRACT.columns + extra))


def names(purpose: str, *wanted: str) -> list[str]:
    return [column.name for column in CONTRACT.columns_for(purpose, wanted)]


def test_a_purpose_reads_its_columns_and_the_keys_and_times() -> None:
    assert names("credit_risk") == ["client_id", "opened_at", "limit", "ratio", "active", "city"]
    assert names("fairness_audit") == ["client_id", "opened_at", "sex"]
    assert names("credit_risk", "ratio", "limit") == ["limit", "ratio"]


@pytest.mark.parametrize(
    ("purpose", "wanted"),
    [("credit_risk", ["sex"]), ("fairness_audit", ["sex", "limit"]), ("marketing", []), ("", []), ("", ["client_id"])],
)
def test_another_purpose_is_refused(purpose: str, wanted: list[str]) -> None:
    with pytest.raises(PermissionDeniedError) as caught:
        CONTRACT.columns_for(purpose, wanted)
    assert caught.value.reason == "PURPOSE_NOT_PERMITTED"


@pytest.mark.parametrize("wanted", [["none"], ["city", "city"]])
def test_columns_that_are_not_there_are_named(wanted: list[str]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        CONTRACT.columns_for("credit_risk", wanted)
    assert list(caught.value.fields) == [f"columns[{len(wanted) - 1}]"]
