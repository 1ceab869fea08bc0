"""What the steps compute by themselves."""

import datetime as dt
import math

import pyarrow as pa

from examples.credit.run import id_prefix
from examples.credit.steps.features import changed_rows
from examples.credit.steps.promote import short
from examples.credit.steps.refusals import forge
from hedgerow.identity import Identity

_TIME = dt.datetime(2005, 9, 30, tzinfo=dt.UTC)


def _set(rows: list[tuple[str, int, float]]) -> pa.Table:
    entities, labels, values = zip(*rows, strict=True)
    return pa.table(
        {
            "entity": entities,
            "as_of_time": pa.array([_TIME] * len(rows), pa.timestamp("us", "UTC")),
            "label": labels,
            "v.f": values,
        }
    )


def test_the_same_rows_in_another_order_are_no_change() -> None:
    rows = [("a", 0, 1.0), ("b", 1, math.nan)]
    assert changed_rows(_set(rows), _set(rows[::-1])) == 0


def test_each_changed_row_counts_once() -> None:
    before = _set([("a", 0, 1.0), ("b", 1, math.nan), ("c", 1, 2.0)])
    assert changed_rows(before, _set([("a", 1, 1.5), ("b", 1, math.nan), ("c", 1, 2.0)])) == 1
    assert changed_rows(before, _set([("a", 0, 1.0), ("b", 1, 0.0), ("c", 0, 2.0)])) == 2


def test_rows_that_come_or_go_count() -> None:
    before = _set([("a", 0, 1.0), ("b", 1, 2.0)])
    assert changed_rows(before, _set([("a", 0, 1.0)])) == 1
    assert changed_rows(before, _set([("a", 0, 1.0), ("c", 1, 2.0)])) == 2


def test_a_forged_identity_has_the_name_and_another_issuer() -> None:
    genuine = forge(_named("spiffe://hedgerow.local/user/ana"))
    forged = forge(genuine)
    assert forged.spiffe_id == genuine.spiffe_id
    assert forged.matches_key()
    assert forged.certificate.public_key() != genuine.certificate.public_key()
    assert forged.roots_pem == genuine.roots_pem


def _named(spiffe_id: str) -> Identity:
    """Returns something with a SPIFFE ID, for `forge` to copy."""

    class Named:
        roots_pem = b"roots"

    named = Named()
    named.spiffe_id = spiffe_id  # type: ignore[attr-defined]
    return named  # type: ignore[return-value]


def test_ids_of_runs_differ_and_are_found_by_the_search() -> None:
    assert id_prefix(1) == "CARD-01-"
    assert id_prefix(12) == "CARD-12-"


def test_versions_have_short_names() -> None:
    assert short("models/credit_default/versions/2") == "credit_default/2"
