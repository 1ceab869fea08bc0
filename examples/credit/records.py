"""Turns the published CSV into the two datasets of the example: clients and their monthly statements.

The financial columns are the published ones. Names, e-mail addresses, client ids and national ids are synthetic and belong
to no one; they are there so that there is personal data to protect. A few rows are broken on purpose (`Planted`).
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
from faker import Faker

SOURCE = Path(__file__).parent / "data" / "uci_credit_default.csv.gz"
SEED = 20050930
OPENED = datetime(2005, 3, 31, tzinfo=UTC)
# The source numbers months backwards from September: suffix of PAY_ and of BILL_AMT/PAY_AMT, and the month end.
MONTHS = (
    ("0", "1", datetime(2005, 9, 30, tzinfo=UTC)),
    ("2", "2", datetime(2005, 8, 31, tzinfo=UTC)),
    ("3", "3", datetime(2005, 7, 31, tzinfo=UTC)),
    ("4", "4", datetime(2005, 6, 30, tzinfo=UTC)),
    ("5", "5", datetime(2005, 5, 31, tzinfo=UTC)),
    ("6", "6", datetime(2005, 4, 30, tzinfo=UTC)),
)
_MAIL_DOMAINS = ("example.com", "example.net", "example.org")

CLIENTS_SCHEMA = pa.schema(
    [
        ("client_id", pa.string()),
        ("full_name", pa.string()),
        ("email", pa.string()),
        ("national_id", pa.string()),
        ("credit_limit", pa.int64()),
        ("sex", pa.int64()),
        ("education", pa.int64()),
        ("marriage", pa.int64()),
        ("age", pa.int64()),
        ("opened_at", pa.timestamp("us", tz="UTC")),
        ("defaulted", pa.bool_()),
    ]
)
STATEMENTS_SCHEMA = pa.schema(
    [
        ("client_id", pa.string()),
        ("statement_time", pa.timestamp("us", tz="UTC")),
        ("known_time", pa.timestamp("us", tz="UTC")),
        ("credit_limit", pa.int64()),
        ("pay_delay", pa.int64()),
        ("bill_amount", pa.int64()),
        ("paid_amount", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Planted:
    """A row that breaks its contract on purpose, and the column that quarantine must name."""

    column: str
    change: dict[str, object]


PLANTED_CLIENTS = (
    Planted("client_id", {"client_id": None}),
    Planted("age", {"age": 230}),
    Planted("credit_limit", {"credit_limit": None}),
)
PLANTED_STATEMENTS = (
    Planted("client_id", {"client_id": None}),
    Planted("statement_time", {"statement_time": None}),
    Planted("pay_delay", {"pay_delay": 99}),
    Planted("bill_amount", {"bill_amount": None}),
)


@dataclass(frozen=True)
class CreditRecords:
    """The records of one run.

    clients: 30,000 rows; statements: 180,000 rows; broken_clients, broken_statements: the planted rows, in the order of
    PLANTED_CLIENTS and PLANTED_STATEMENTS; late_statement: one row whose event lies before the first label cut-off and
    that became known after the last one.
    """

    clients: pa.Table
    statements: pa.Table
    broken_clients: pa.Table
    broken_statements: pa.Table
    late_statement: pa.Table


def client_id(prefix: str, number: int) -> str:
    """Returns the synthetic id of the client on line `number` of the source, such as `CARD-00000001`."""
    return f"{prefix}{number:08d}"


def load(prefix: str = "CARD-", limit: int | None = None) -> CreditRecords:
    """Reads the source and attaches the synthetic identities; the same arguments give the same records.

    prefix: what client ids start with. limit: only the first so many clients, for quick tries.
    """
    source = pl.read_csv(SOURCE.read_bytes(), n_rows=limit)
    ids = pl.Series("client_id", [client_id(prefix, number) for number in source["ID"]])
    source = source.with_columns(ids)
    clients = _clients(source)
    statements = _statements(source)
    return CreditRecords(
        clients=clients,
        statements=statements,
        broken_clients=_broken(clients, PLANTED_CLIENTS),
        broken_statements=_broken(statements, PLANTED_STATEMENTS),
        late_statement=_late(statements),
    )


def _clients(source: pl.DataFrame) -> pa.Table:
    names, emails, national_ids = _identities(source.height)
    frame = source.select(
        "client_id",
        pl.Series("full_name", names),
        pl.Series("email", emails),
        pl.Series("national_id", national_ids),
        pl.col("LIMIT_BAL").alias("credit_limit"),
        pl.col("SEX").alias("sex"),
        pl.col("EDUCATION").alias("education"),
        pl.col("MARRIAGE").alias("marriage"),
        pl.col("AGE").alias("age"),
        pl.lit(OPENED).alias("opened_at"),
        (pl.col("default.payment.next.month") == 1).alias("defaulted"),
    )
    return frame.to_arrow().cast(CLIENTS_SCHEMA)


def _statements(source: pl.DataFrame) -> pa.Table:
    months = [
        source.select(
            "client_id",
            pl.lit(month_end).alias("statement_time"),
            pl.lit(month_end).alias("known_time"),
            pl.col("LIMIT_BAL").alias("credit_limit"),
            pl.col(f"PAY_{pay}").alias("pay_delay"),
            pl.col(f"BILL_AMT{amount}").alias("bill_amount"),
            pl.col(f"PAY_AMT{amount}").alias("paid_amount"),
        )
        for pay, amount, month_end in reversed(MONTHS)
    ]
    return pl.concat(months).to_arrow().cast(STATEMENTS_SCHEMA)


def _identities(count: int) -> tuple[list[str], list[str], list[str]]:
    """Makes `count` synthetic names, e-mail addresses and national ids.

    Faker is asked for a pool of names, not for every person: a call of it costs some 20 µs and there are 30,000 people.
    """
    fake = Faker("en_US")
    fake.seed_instance(SEED)
    chance = random.Random(SEED)  # noqa: S311 - synthetic people, the same each time
    first_names = [fake.first_name() for _ in range(500)]
    last_names = [fake.last_name() for _ in range(800)]
    pairs = list(zip(chance.choices(first_names, k=count), chance.choices(last_names, k=count), strict=True))
    emails = [
        f"{first}.{last}.{number}@{_MAIL_DOMAINS[number % len(_MAIL_DOMAINS)]}".lower().replace(" ", "")
        for number, (first, last) in enumerate(pairs, start=1)
    ]
    digits = chance.sample(range(10**9), k=count)
    letters = chance.choices("ABCDEFGHJKLMNPQRSTUVXYWZIO", k=count)
    national_ids = [f"SYN-{letter}{number:09d}" for letter, number in zip(letters, digits, strict=True)]
    return [f"{first} {last}" for first, last in pairs], emails, national_ids


def _broken(table: pa.Table, planted: Sequence[Planted]) -> pa.Table:
    """Returns one copy of the first row for each planted fault, with that fault in it."""
    row = table.slice(0, 1).to_pylist()[0]
    return pa.Table.from_pylist([row | fault.change for fault in planted], schema=table.schema)


def _late(statements: pa.Table) -> pa.Table:
    """Returns a July statement of the first client with a much worse delay, which became known only in October."""
    row = statements.slice(0, 1).to_pylist()[0]
    late = row | {
        "statement_time": datetime(2005, 7, 30, tzinfo=UTC),
        "known_time": datetime(2005, 10, 15, tzinfo=UTC),
        "pay_delay": 8,
        "bill_amount": 9 * int(row["credit_limit"]),
        "paid_amount": 0,
    }
    return pa.Table.from_pylist([late], schema=STATEMENTS_SCHEMA)
