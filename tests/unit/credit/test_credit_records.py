"""The records of the example."""

import re

import pyarrow.compute as pc
import pytest

from examples.credit import definitions, records
from examples.credit.steps.erasure import IDENTIFIERS
from hedgerow.sdk import records as record_files


@pytest.fixture(scope="module")
def loaded() -> records.CreditRecords:
    return records.load("CARD-01-")


def test_counts_and_the_published_share_of_defaults(loaded: records.CreditRecords) -> None:
    assert (loaded.clients.num_rows, loaded.statements.num_rows) == (30_000, 180_000)
    assert pc.sum(loaded.clients["defaulted"]).as_py() == 6_636


def test_months_are_not_mixed_up(loaded: records.CreditRecords) -> None:
    """Line 2 of the source: PAY_0 is September, PAY_6 April; BILL_AMT1 is September."""
    rows = loaded.statements.filter(pc.equal(loaded.statements["client_id"], "CARD-01-00000002")).to_pylist()
    assert [row["statement_time"].month for row in rows] == [4, 5, 6, 7, 8, 9]
    assert [row["pay_delay"] for row in rows] == [2, 0, 0, 0, 2, -1]
    assert [row["bill_amount"] for row in rows] == [3261, 3455, 3272, 2682, 1725, 2682]
    assert [row["paid_amount"] for row in rows] == [2000, 0, 1000, 1000, 1000, 0]


def test_identities_are_unique_synthetic_and_the_same_each_time(loaded: records.CreditRecords) -> None:
    clients = loaded.clients
    for column in ("client_id", "email", "national_id"):
        assert pc.count_distinct(clients[column]).as_py() == 30_000
        assert all(IDENTIFIERS.fullmatch(value.encode()) for value in clients[column].to_pylist())
    assert records.load("CARD-01-", limit=10).clients.schema == clients.schema
    assert records.load("CARD-01-").clients.equals(clients)
    assert set(re.findall(r"@(\S+)", " ".join(clients["email"].to_pylist()))) == {
        "example.com",
        "example.net",
        "example.org",
    }


def test_tables_have_the_schema_of_their_contracts() -> None:
    contracts = [each.request.contract for each in definitions.select(definitions.load(1), "Dataset")]
    schemas = [record_files.schema(contract) for contract in contracts]
    assert schemas == [records.CLIENTS_SCHEMA, records.STATEMENTS_SCHEMA]


def test_planted_rows_break_only_what_they_say(loaded: records.CreditRecords) -> None:
    first = loaded.clients.slice(0, 1).to_pylist()[0]
    for row, fault in zip(loaded.broken_clients.to_pylist(), records.PLANTED_CLIENTS, strict=True):
        assert {name for name in row if row[name] != first[name]} == {fault.column}


def test_the_late_row_happened_before_the_cutoffs_and_became_known_after(loaded: records.CreditRecords) -> None:
    [row] = loaded.late_statement.to_pylist()
    cutoffs = definitions.select(definitions.load(1), "TrainingSet")[0].request.training_set.cutoffs
    times = [cutoff.as_of_time.ToDatetime(row["statement_time"].tzinfo) for cutoff in cutoffs]
    assert len(times) >= 2
    assert all(row["statement_time"] < time < row["known_time"] for time in times)
