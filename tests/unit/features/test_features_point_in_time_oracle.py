"""The point-in-time join against a plain double loop that shares no code with it."""

from __future__ import annotations

import calendar
import datetime as dt
from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from services.features.view import Feature
from tests.unit.features.samples import engine_with, view

EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)
TTL_SECONDS = 40 * 86_400
FEATURES = (
    Feature("newest", "arg_max_null(pay_delay, event_time)"),
    Feature("count_1", "count(*)", 1),
    Feature("sum_3", "sum(pay_delay)", 3),
    Feature("late_3", "count(*) filter (where pay_delay >= 1)", 3),
    Feature("max_6", "max(pay_delay)", 6),
)

# Few distinct instants, at the places where calendars are hard, so that ties and edges are common: ends of months of
# every length, a leap day, both passes of the repeated autumn hour in New York, and neighbours one microsecond away.
INSTANTS = [
    dt.datetime(2004, 1, 31, tzinfo=dt.UTC),
    dt.datetime(2004, 2, 29, tzinfo=dt.UTC),
    dt.datetime(2004, 3, 31, tzinfo=dt.UTC),
    dt.datetime(2004, 3, 31, tzinfo=dt.UTC) + MICROSECOND,
    dt.datetime(2004, 4, 30, tzinfo=dt.UTC),
    dt.datetime(2004, 5, 30, tzinfo=dt.UTC),
    dt.datetime(2004, 5, 31, tzinfo=dt.UTC),
    dt.datetime(2004, 7, 10, tzinfo=dt.UTC),
    dt.datetime(2004, 8, 31, tzinfo=dt.UTC) - MICROSECOND,
    dt.datetime(2004, 8, 31, tzinfo=dt.UTC),
    dt.datetime(2004, 10, 31, 5, 30, tzinfo=dt.UTC),
    dt.datetime(2004, 10, 31, 6, 30, tzinfo=dt.UTC),
]
instants = st.sampled_from(INSTANTS)
entities = st.sampled_from(["a", "b", "c"])
rows = st.lists(
    st.fixed_dictionaries(
        {
            "client_id": entities,
            "statement_time": instants,
            "known_time": instants,
            "pay_delay": st.one_of(st.none(), st.integers(-2, 3)),
        }
    ),
    max_size=25,
)
spines = st.lists(st.tuples(st.sampled_from(["a", "b", "c", "unknown"]), instants), min_size=1, max_size=12)


def months_before(time: dt.datetime, months: int) -> dt.datetime:
    """The same day and time of day so many months earlier, or the last day of a month that is too short."""
    index = time.year * 12 + time.month - 1 - months
    year, month = index // 12, index % 12 + 1
    return time.replace(year=year, month=month, day=min(time.day, calendar.monthrange(year, month)[1]))


def visible(source: Sequence[dict[str, Any]], entity: str, as_of: dt.datetime) -> list[dict[str, Any]]:
    """The rows that count for an entity as of a time, oldest first: a plain loop over all rows."""
    best: dict[dt.datetime, dict[str, Any]] = {}
    for each in source:
        if each["client_id"] != entity or each["statement_time"] > as_of or each["known_time"] > as_of:
            continue
        held = best.get(each["statement_time"])
        if held is None or rank(each) > rank(held):
            best[each["statement_time"]] = each
    return [best[time] for time in sorted(best)]


def rank(each: dict[str, Any]) -> tuple[Any, ...]:
    """What decides between rows of one event time: known later, then the greater value, null least."""
    number = each["pay_delay"]
    return each["known_time"], number is not None, number or 0


def expected(source: Sequence[dict[str, Any]], entity: str, as_of: dt.datetime) -> list[float | None]:
    """The features of one row, by hand."""
    seen = visible(source, entity, as_of)
    if not seen or as_of - seen[-1]["statement_time"] > dt.timedelta(seconds=TTL_SECONDS):
        return [None] * len(FEATURES)

    def window(months: int) -> list[int | None]:
        edge = months_before(as_of, months)
        return [each["pay_delay"] for each in seen if each["statement_time"] > edge]

    one, three, six = window(1), window(3), window(6)
    known_three = [number for number in three if number is not None]
    known_six = [number for number in six if number is not None]
    return [
        seen[-1]["pay_delay"],
        len(one) or None,
        sum(known_three) if known_three else None,
        sum(1 for number in known_three if number >= 1) if three else None,
        max(known_six) if known_six else None,
    ]


@settings(max_examples=150, deadline=None)
@given(rows, spines)
def test_the_join_equals_a_double_loop(source: list[dict[str, Any]], spine: list[tuple[str, dt.datetime]]) -> None:
    over = view(*FEATURES, ttl_seconds=TTL_SECONDS)
    as_of_us = np.array([(as_of - EPOCH) // MICROSECOND for _, as_of in spine])
    with engine_with(source, over) as engine:
        found = engine.features(over, [entity for entity, _ in spine], as_of_us).values
    wanted = [
        [np.nan if number is None else float(number) for number in expected(source, entity, as_of)]
        for entity, as_of in spine
    ]
    np.testing.assert_array_equal(found, wanted)
