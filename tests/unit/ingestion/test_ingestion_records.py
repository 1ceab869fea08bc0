"""Rows against a contract: the vectorised check equals a plain loop, whatever form the Arrow columns have."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedgerow.errors import InvalidArgumentError
from services.ingestion import records
from services.ingestion.records import QuarantinedRow
from tests.unit.ingestion.ingestion_fixtures import CONTRACT, ipc, subject, table_of

KEY = hashlib.sha256(b"credit").digest()
YEAR_1, YEAR_9999 = -62_135_596_800_000_000, 253_402_300_799_999_999
PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}

TEXT = st.none() | st.sampled_from(["", "a", "b", "é", "a-long-name"])
RAW_ROW = st.fixed_dictionaries(
    {
        "client_id": TEXT,
        "opened_at": st.none() | st.integers(-(2**63), 2**63 - 1) | st.integers(-(10**9), 10**9),
        "limit": st.none() | st.integers(-5, 2**64 - 1) | st.integers(0, 1_000_001),
        "ratio": st.none() | st.floats(width=32) | st.sampled_from([1.5, -1.5, 2.0]),
        "active": st.none() | st.booleans(),
        "city": TEXT,
        "sex": TEXT,
    }
)


def time_faults(time: int | None, unit: str) -> Iterator[str]:
    if time is None:
        yield "null where none is allowed"
    elif unit == "ns":
        if time % 1000:
            yield "finer than a microsecond"
    elif not YEAR_1 <= time * PER_UNIT[unit] <= YEAR_9999:
        yield "outside the years 1 to 9999"


def limit_faults(limit: int | None) -> Iterator[str]:
    if limit is None:
        return
    if limit > 2**63 - 1:
        yield "does not fit a signed 64-bit integer"
    elif limit < 0:
        yield "below the contract's minimum"
    elif limit > 1_000_000:
        yield "above the contract's maximum"


def ratio_faults(ratio: float | None) -> Iterator[str]:
    if ratio is not None and not math.isfinite(ratio):
        yield "not a finite number"
    if ratio is not None and ratio < -1.5:
        yield "below the contract's minimum"
    if ratio is not None and ratio > 1.5:
        yield "above the contract's maximum"


def loop(rows: list[dict[str, Any]], unit: str) -> tuple[list[dict[str, Any]], list[tuple[int, str]]]:
    """The oracle: one row after the other, one rule after the other."""
    good, bad = [], []
    for index, row in enumerate(rows):
        key_fault = {None: ["a key is null"], "": ["a key is empty"]}.get(row["client_id"], [])
        faults = [f"column client_id: {what}" for what in key_fault]
        faults += [f"column opened_at: {what}" for what in time_faults(row["opened_at"], unit)]
        faults += [f"column limit: {what}" for what in limit_faults(row["limit"])]
        faults += [f"column ratio: {what}" for what in ratio_faults(row["ratio"])]
        if faults:
            bad.append((index, "; ".join(faults)))
        else:
            micros = row["opened_at"] // 1000 if unit == "ns" else row["opened_at"] * PER_UNIT[unit]
            good.append(row | {"client_id": subject(row["client_id"]), "opened_at": micros})
    return good, bad


def column_of(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_dictionary(kind):
        return pa.array(values, kind.value_type).dictionary_encode()
    return pa.array(values, kind)


TEXT_KINDS = st.sampled_from([pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(RAW_ROW, max_size=25),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from(["UTC", "+05:30", "America/New_York"]),
    TEXT_KINDS,
    st.booleans(),
)
def test_the_check_equals_a_plain_loop(
    rows: list[dict[str, Any]], unit: str, zone: str, text: pa.DataType, unsigned: bool
) -> None:
    if unsigned:
        rows = [row | {"limit": None if row["limit"] is None else abs(row["limit"])} for row in rows]
    else:
        rows = [row | {"limit": None if row["limit"] is None else min(row["limit"], 2**63 - 1)} for row in rows]
    kinds = {
        "client_id": text,
        "opened_at": pa.timestamp(unit, zone),
        "limit": pa.uint64() if unsigned else pa.int64(),
        "ratio": pa.float64(),
        "active": pa.bool_(),
        "city": text,
        "sex": text,
    }
    sent = pa.table({name: column_of([row[name] for row in rows], kind) for name, kind in kinds.items()})
    decoded, _ = records.decode(ipc(sent), CONTRACT, max_rows=1000)
    checked = records.check(decoded, CONTRACT, pseudonym_key=KEY, first_row=0)

    good, bad = loop(rows, unit)
    assert [(row.row_index, row.reason) for row in checked.quarantined] == bad
    assert checked.rows.schema == CONTRACT.schema()
    kept = checked.rows.set_column(1, "opened_at", checked.rows.column("opened_at").cast(pa.int64()))
    assert kept.to_pylist() == good


def check(table: pa.Table) -> tuple[pa.Table, list[QuarantinedRow]]:
    decoded, _ = records.decode(ipc(table), CONTRACT, max_rows=1000)
    checked = records.check(decoded, CONTRACT, pseudonym_key=KEY, first_row=100)
    return checked.rows, checked.quarantined


def refused(table: pa.Table) -> dict[str, str]:
    with pytest.raises(InvalidArgumentError) as caught:
        records.decode(ipc(table), CONTRACT, max_rows=1000)
    assert caught.value.reason == "ARROW_INVALID"
    return caught.value.fields


def test_fs_01_a_time_without_zone_is_refused() -> None:
    naive = table_of("a", opened_at=pa.array([0], pa.timestamp("us")))
    assert "time zone" in refused(naive)["arrow_ipc.opened_at"]


def test_fs_01_one_instant_in_any_zone_is_the_same_instant() -> None:
    # 2005-10-30 01:30 in New York happens twice; the instant does not.
    instant = 1_130_650_200
    for zone in ("UTC", "+05:30", "America/New_York"):
        rows, _ = check(table_of("a", opened_at=pa.array([instant], pa.timestamp("s", zone))))
        assert rows.column("opened_at").cast(pa.int64()).to_pylist() == [instant * 1_000_000]


def test_fs_10_an_integer_beside_a_null_stays_exact_and_a_float_column_is_refused() -> None:
    big = 9_007_199_254_740_993
    assert "expected int64" in refused(table_of("a", limit=pa.array([float(big)])))["arrow_ipc.limit"]
    _, bad = check(table_of("a", "b", limit=pa.array([big, None], pa.int64())))
    assert json.loads(bad[0].content)["limit"] == big, "refused for its range, and still exact"


def test_fs_11_columns_of_nulls_take_their_declared_type() -> None:
    rows, bad = check(table_of("a", "b"))
    assert bad == []
    assert rows.schema == CONTRACT.schema()
    assert rows.column("limit").null_count == 2


def test_identifiers_are_pseudonyms_in_rows_and_in_quarantine() -> None:
    rows, bad = check(table_of("anna", "bert", limit=pa.array([1, -1], pa.int64())))
    assert rows.column("client_id").to_pylist() == [subject("anna")]
    assert (bad[0].row_index, bad[0].reason) == (101, "column limit: below the contract's minimum")
    assert json.loads(bad[0].content)["client_id"] == subject("bert")
    assert b"bert" not in bad[0].content


def test_reasons_hold_no_value() -> None:
    _, bad = check(table_of("a", limit=pa.array([987_654_321], pa.int64()), city=pa.array(["secret-city"])))
    assert "987" not in bad[0].reason
    assert "secret" not in bad[0].reason


@pytest.mark.parametrize(
    ("table", "path"),
    [
        (table_of("a").drop_columns(["city"]), "arrow_ipc.city"),
        (table_of("a").append_column("extra", pa.nulls(1)), "arrow_ipc.extra"),
        (table_of("a").append_column("city", pa.nulls(1)), "arrow_ipc.city"),
        (table_of("a", city=pa.array([1])), "arrow_ipc.city"),
        (table_of("a", city=pa.array([b"x"])), "arrow_ipc.city"),
        (table_of("a", active=pa.array([1])), "arrow_ipc.active"),
        (table_of("a", ratio=pa.array([1], pa.int64())), "arrow_ipc.ratio"),
        (table_of("a", opened_at=pa.array([1], pa.date32())), "arrow_ipc.opened_at"),
        (table_of("a", limit=pa.array(["1"])), "arrow_ipc.limit"),
        (table_of("a", city=pa.array([["x"]])), "arrow_ipc.city"),
        (
            table_of("a", city=pa.RunEndEncodedArray.from_arrays(pa.array([1], pa.int32()), pa.array(["x"]))),
            "arrow_ipc.city",
        ),
    ],
)
def test_columns_that_are_not_the_contract_s_refuse_the_append(table: pa.Table, path: str) -> None:
    assert path in refused(table)


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [
        ("limit", pa.array([7], pa.int8()), 7),
        ("limit", pa.array([7], pa.uint32()), 7),
        ("ratio", pa.array([1], pa.int32()), 1.0),
        ("ratio", pa.array([0.5], pa.float32()), 0.5),
        ("ratio", pa.array([0.5], pa.float16()), 0.5),
        ("city", pa.array(["x"]).dictionary_encode(), "x"),
    ],
)
def test_exact_conversions_are_taken(name: str, column: pa.Array, value: object) -> None:
    rows, bad = check(table_of("a", **{name: column}))
    assert bad == []
    assert rows.column(name).to_pylist() == [value]


def test_no_rows_are_fine() -> None:
    rows, bad = check(table_of("a").slice(0, 0))
    assert (rows.num_rows, bad) == (0, [])
