"""The point-in-time join at its edges: each rule by hand, with values worked out on paper."""

from __future__ import annotations

import datetime as dt
from dataclasses import replace
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest

from hedgerow.errors import CallCancelledError, FailedPreconditionError, ResourceExhaustedError
from services.features import point_in_time
from services.features.point_in_time import NO_EVENT, PointInTime, Status, combine
from services.features.source import ColumnType, SourceColumn
from services.features.source_rows import prepare_rows
from services.features.view import Feature, FeatureView, define_view
from tests.unit.features.samples import CREDIT, STATEMENTS, TYPES, at, engine_with, row, table, us, view

NEWEST = "arg_max_null(amount, event_time)"


def value(rows: list[dict[str, object]], over: FeatureView, as_of: str, client: str = "a") -> float | None:
    with engine_with(rows, over) as engine:
        found = engine.features(over, [client], us(as_of)).values[0, 0]
    return None if np.isnan(found) else float(found)


def test_event_time_equal_to_the_as_of_time_is_included() -> None:  # FS-04
    rows = [row("a", "2005-05-10T12:00:00", amount=7.0)]
    assert value(rows, view(NEWEST), "2005-05-10T11:59:59.999999") is None
    assert value(rows, view(NEWEST), "2005-05-10T12:00:00") == 7.0


def test_a_value_is_there_at_its_ttl_and_gone_a_microsecond_later() -> None:  # FS-04, FS-02
    rows = [row("a", "2005-05-10T12:00:00", amount=7.0)]
    over = view(NEWEST, ttl_seconds=3600)
    assert value(rows, over, "2005-05-10T13:00:00") == 7.0
    assert value(rows, over, "2005-05-10T13:00:00.000001") is None
    with engine_with(rows, over) as engine:
        found = engine.features(over, ["a", "b"], us("2005-05-10T13:00:00.000001"))
    assert list(found.statuses) == [Status.OUTSIDE_MAX_AGE, Status.NOT_FOUND]
    assert list(found.event_us) == [us("2005-05-10T12:00:00"), NO_EVENT]


def test_the_ttl_counts_from_the_newest_row_and_does_not_shorten_windows() -> None:
    rows = [row("a", "2005-04-10", amount=1.0), row("a", "2005-05-10", amount=2.0)]
    over = view("sum(amount)", ttl_seconds=86_400)
    assert value(rows, over, "2005-05-11") == 3.0


def test_a_back_filled_row_is_not_seen_before_it_was_known() -> None:  # FS-06
    rows = [
        row("a", "2005-05-10T10:00", "2005-05-10T10:00", amount=1.0),
        row("a", "2005-05-10T10:30", "2005-05-10T12:00", amount=2.0),
    ]
    assert value(rows, view(NEWEST), "2005-05-10T11:00") == 1.0
    assert value(rows, view(NEWEST), "2005-05-10T11:59:59.999999") == 1.0
    assert value(rows, view(NEWEST), "2005-05-10T12:00") == 2.0


def test_a_correction_replaces_the_row_from_when_it_was_known() -> None:
    rows = [
        row("a", "2005-05-10", "2005-05-10", amount=1.0),
        row("a", "2005-05-10", "2005-05-12", amount=5.0),
    ]
    assert value(rows, view("sum(amount)"), "2005-05-11") == 1.0
    assert value(rows, view("sum(amount)"), "2005-05-12") == 5.0


def test_rows_that_tie_in_both_times_are_decided_by_value_and_not_by_order() -> None:
    rows = [row("a", "2005-05-10", amount=each) for each in (2.0, 9.0, None, 4.0)]
    assert value(rows, view("sum(amount)"), "2005-05-11") == 9.0
    assert value(rows[::-1], view("sum(amount)"), "2005-05-11") == 9.0


@pytest.mark.parametrize(
    ("as_of", "months", "lower_edge"),
    [
        ("2005-05-31T08:00:00", 3, "2005-02-28T08:00:00"),
        ("2004-05-31T08:00:00", 3, "2004-02-29T08:00:00"),
        ("2005-06-30T00:00:00", 1, "2005-05-30T00:00:00"),
        ("2005-02-28T00:00:00", 1, "2005-01-28T00:00:00"),
        ("2005-09-30T00:00:00", 6, "2005-03-30T00:00:00"),
        ("2005-01-15T00:00:00", 12, "2004-01-15T00:00:00"),
    ],
)
def test_a_window_ends_at_the_as_of_time_and_excludes_its_lower_edge(as_of: str, months: int, lower_edge: str) -> None:
    over = view(Feature("n", "count(*)", months))
    edge = at(lower_edge)
    after = edge + dt.timedelta(microseconds=1)
    assert value([row("a", edge.isoformat())], over, as_of) is None
    assert value([row("a", after.isoformat())], over, as_of) == 1.0


def test_an_instant_counts_whatever_zone_it_is_written_in() -> None:  # FS-01
    # 05:30 UTC on 30 October 2005 is 01:30 in New York for the first time that night, 06:30 UTC for the second.
    new_york = ZoneInfo("America/New_York")
    first = dt.datetime(2005, 10, 30, 1, 30, tzinfo=new_york, fold=0)
    second = dt.datetime(2005, 10, 30, 1, 30, tzinfo=new_york, fold=1)
    for written, instant in (
        (first, "2005-10-30T05:30"),
        (second, "2005-10-30T06:30"),
        (at("2005-10-30T11:00+05:30"), "2005-10-30T05:30"),
        (at("2005-10-30T05:30Z"), "2005-10-30T05:30"),
    ):
        zone = "America/New_York" if written.tzinfo is new_york else "+05:30"
        times = pa.array([written.astimezone(dt.UTC)], pa.timestamp("us", tz=zone))
        source = table([row("a", instant, amount=3.0)])
        for name in ("statement_time", "known_time"):
            source = source.set_column(source.column_names.index(name), name, times)
        over = view(NEWEST)
        with engine_with(source, over) as engine:
            found = engine.features(over, ["a", "a"], np.array([us(instant) - 1, us(instant)])).values[:, 0]
        assert np.isnan(found[0])
        assert found[1] == 3.0


def test_a_time_without_a_zone_is_refused() -> None:  # FS-01
    source = table([row("a", "2005-05-10", amount=1.0)])
    naive = source.column("statement_time").cast(pa.timestamp("us"))
    source = source.set_column(1, "statement_time", naive)
    with pytest.raises(FailedPreconditionError, match="without a zone"):
        prepare_rows(source, STATEMENTS, "client_id", frozenset({"amount"}))


def test_an_integer_with_nulls_keeps_every_digit() -> None:  # FS-10
    rows = [row("a", "2005-05-10", pay_delay=2**53 + 1), row("a", "2005-05-11", pay_delay=None)]
    over = view("max(pay_delay) - 9007199254740992")
    assert value(rows, over, "2005-05-12") == 1.0
    assert value(rows, view("arg_max_null(pay_delay, event_time)"), "2005-05-12") is None
    assert value(rows, view("arg_max(pay_delay, event_time) - 9007199254740992"), "2005-05-12") == 1.0


def test_an_integer_that_float64_cannot_hold_is_refused_rather_than_changed() -> None:  # FS-10
    rows = [row("a", "2005-05-10", pay_delay=2**53 + 1)]
    with pytest.raises(FailedPreconditionError, match="beyond 2\\^53"):
        value(rows, view("max(pay_delay)"), "2005-05-12")
    assert value(rows, view("cast(max(pay_delay) as double)"), "2005-05-12") == 2.0**53
    assert value([row("a", "2005-05-10", pay_delay=-(2**53))], view("max(pay_delay)"), "2005-05-12") == -(2.0**53)


def test_columns_of_nulls_have_the_type_of_the_contract() -> None:  # FS-11
    rows = [row("a", "2005-05-10")]
    source = table(rows)
    untyped = {name: source.column(name) if source.column(name).null_count == 0 else pa.nulls(1) for name in TYPES}
    over = view("max(pay_delay)", "sum(amount)", "bool_or(flag)", "count(pay_delay)", "count(*)")
    with engine_with(pa.table(untyped), over) as engine:
        found = engine.features(over, ["a"], us("2005-06-01")).values[0]
    np.testing.assert_array_equal(found, [np.nan, np.nan, np.nan, 0.0, 1.0])


def test_no_row_in_the_window_gives_null_even_for_a_count() -> None:
    rows = [row("a", "2005-01-10", pay_delay=1)]
    over = view(Feature("n", "count(*)", 1), Feature("late", "count(*) filter (where pay_delay > 5)"))
    with engine_with(rows, over) as engine:
        found = engine.features(over, ["a", "unknown"], us("2005-05-10"))
    np.testing.assert_array_equal(found.values, [[np.nan, 0.0], [np.nan, np.nan]])
    assert list(found.statuses) == [Status.PRESENT, Status.NOT_FOUND]


def test_a_result_that_is_no_finite_number_is_null() -> None:
    rows = [row("a", "2005-05-10", amount=0.0), row("b", "2005-05-10", amount=1e308)]
    over = view("1 / sum(amount)", "sum(amount) * 10")
    with engine_with(rows, over) as engine:
        found = engine.features(over, ["a", "b"], us("2005-06-10")).values
    np.testing.assert_array_equal(found, [[np.nan, 0.0], [1e-308, np.nan]])


def test_every_row_asked_for_comes_back_once_and_in_order() -> None:
    rows = [row("a", "2005-05-10", amount=1.0), row("b", "2005-05-11", amount=2.0)]
    over = view(NEWEST, ttl_seconds=86_400)
    asked = ["b", "a", "nobody", "a", "b", "a"]
    times = np.array([us("2005-05-11"), us("2005-05-11"), us("2005-05-11"), us("2006-01-01"), us("2005-05-10"), 0])
    with engine_with(rows, over) as engine:
        found = engine.features(over, asked, times).values[:, 0]
    np.testing.assert_array_equal(found, [2.0, 1.0, np.nan, np.nan, np.nan, np.nan])


def test_bytes_depend_neither_on_the_order_of_rows_nor_on_who_else_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    random = np.random.default_rng(7)
    amounts = random.normal(0, 1e6, 400) * 10.0 ** random.integers(-12, 12, 400)
    rows = [
        row(f"c{index % 40}", f"2005-0{1 + index // 40 % 9}-{1 + index % 27:02d}", amount=float(amount))
        for index, amount in enumerate(amounts)
    ]
    over = view("sum(amount)", "avg(amount)", "stddev(amount)", "regr_slope(amount, epoch(event_time))")
    as_of = us("2006-01-01")
    everyone = sorted({each["client_id"] for each in rows})
    with engine_with(rows, over) as engine:
        expected = engine.features(over, everyone, as_of).values
    shuffled = [rows[index] for index in random.permutation(len(rows))]
    monkeypatch.setattr(point_in_time, "CHUNK_ROWS", 7)
    with engine_with(shuffled, over) as engine:
        assert engine.features(over, everyone, as_of).values.tobytes() == expected.tobytes()
        for index, client in enumerate(everyone):
            assert engine.features(over, [client], as_of).values.tobytes() == expected[index].tobytes()


def test_negative_zero_is_zero() -> None:
    for amounts in ((0.0, -0.0), (-0.0, 0.0)):
        over = view("max(amount)")
        with engine_with([row("a", "2005-05-10", amount=each) for each in amounts], over) as engine:
            assert engine.features(over, ["a"], us("2005-06-01")).values.tobytes() == bytes(8)


def test_the_engine_reaches_neither_files_nor_its_own_settings() -> None:
    with PointInTime() as engine:
        for statement in (
            "SELECT * FROM read_csv('/etc/hostname')",
            "COPY (SELECT 1) TO '/tmp/leak.csv'",
            "ATTACH '/tmp/leak.db'",
            "SET enable_external_access = true",
            "SET threads = 4",
            "INSTALL httpfs",
        ):
            with pytest.raises(Exception, match=r"(?i)disabled|locked|permission"):
                engine._db.execute(statement)


def test_what_does_not_fit_in_memory_is_refused_and_never_spilled() -> None:
    rows = table([row(f"client {index:030d}", "2005-05-10", amount=1.0) for index in range(40_000)])
    over = view("sum(amount)")
    prepared, _ = prepare_rows(rows, STATEMENTS, "client_id", over.columns)
    with PointInTime(memory_limit_mib=1) as engine, pytest.raises(ResourceExhaustedError, match="memory limit"):
        engine.load(STATEMENTS.dataset, prepared)
        engine.features(over, prepared.column(0).to_pylist(), us("2005-06-01"))


def test_data_never_shows_in_an_error() -> None:
    rows = [row("a", "2005-05-10", pay_delay=9_223_372_036_854_775_807)]
    with pytest.raises(FailedPreconditionError) as caught:
        value(rows, view("max(pay_delay * 12)"), "2005-06-01")
    assert "9223372036854775807" not in caught.value.message
    assert caught.value.__cause__ is None


def test_work_stops_between_chunks() -> None:
    over = view("sum(amount)")
    prepared, _ = prepare_rows(table([row("a", "2005-05-10", amount=1.0)]), STATEMENTS, "client_id", over.columns)

    def stop() -> None:
        raise CallCancelledError("stopped")

    with PointInTime(checkpoint=stop) as engine, pytest.raises(CallCancelledError):
        engine.load(STATEMENTS.dataset, prepared)
        engine.features(over, ["a"], us("2005-06-01"))


def test_one_status_over_several_views() -> None:
    present, absent, expired = Status.PRESENT, Status.NOT_FOUND, Status.OUTSIDE_MAX_AGE
    first = np.array([present, present, absent, present, expired], np.uint8)
    second = np.array([present, absent, absent, expired, absent], np.uint8)
    assert list(combine([first, second])) == [present, present, absent, expired, expired]


@pytest.mark.parametrize("name", ["row", "as_of", "visible", "spine", "label", "f0", "entity"])
def test_a_column_may_have_any_name_the_contract_allows(name: str) -> None:
    columns = [column for column in STATEMENTS.columns if column.name != "amount"]
    contract = replace(STATEMENTS, columns=(*columns, SourceColumn(name, ColumnType.FLOAT64, CREDIT)))
    over = define_view("named", contract, "client_id", [Feature("total", f'sum("{name}")', 3)])
    rows = table([row("a", "2005-05-10", amount=each) for each in (2.0, 9.0)])
    rows = rows.rename_columns([name if column == "amount" else column for column in rows.column_names])
    with engine_with(rows, over) as engine:
        assert engine.features(over, ["a"], us("2005-05-11")).values[0, 0] == 9.0
