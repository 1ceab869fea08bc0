"""What the steps compute by themselves."""

import datetime as dt
import math

import pyarrow as pa
import pytest

from examples.credit.report.model import Gate
from examples.credit.run import DemoError, id_prefix
from examples.credit.steps.audit import new_faults
from examples.credit.steps.features import changed_rows
from examples.credit.steps.promote import check_bounds, short
from examples.credit.steps.refusals import forge
from examples.credit.steps.serve import largest_gap
from hedgerow.identity import Identity
from hedgerow.inference.v1 import inference_pb2
from libs.audit.verify import Fault, VerificationReport

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


def _explanation(*attributions: float, stated: float = 0.0, probability: float = 0.5) -> inference_pb2.Explanation:
    """Returns the explanation of a logit of 0 from a baseline of -1."""
    return inference_pb2.Explanation(
        prediction=inference_pb2.Prediction(probability=probability),
        baseline_logit=-1.0,
        attributions=attributions,
        completeness_gap=stated,
    )


def test_the_largest_gap_is_over_all_explanations() -> None:
    assert largest_gap([_explanation(0.4, 0.6), _explanation(0.4, 0.5, stated=0.1)]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        _explanation(0.4, 0.5),
        _explanation(0.4, math.nan, stated=0.1),
        _explanation(0.4, math.nan, stated=math.nan),
        _explanation(0.4, 0.6, probability=0.6),
        _explanation(0.4, 0.6, probability=math.nan),
    ],
    ids=["another gap", "an attribution is no number", "nor is the gap", "of another answer", "no answer"],
)
def test_an_explanation_that_does_not_add_up_is_found_wherever_it_stands(wrong: inference_pb2.Explanation) -> None:
    with pytest.raises(DemoError):
        largest_gap([_explanation(0.4, 0.6), wrong])


def test_faults_that_were_there_before_do_not_count_as_found() -> None:
    def report(*faults: Fault) -> VerificationReport:
        return VerificationReport(verified=not faults, segment_count=1, event_count=1, faults=faults)

    old, new = Fault("a", None, "a gap"), Fault("b", 7, "changed")
    assert new_faults(report(old), report(old)) == []
    assert new_faults(report(old), report(old, new)) == [new]


def test_versions_held_to_other_bounds_prove_nothing() -> None:
    def gates(bound: float) -> list[Gate]:
        return [Gate("accuracy", "passed", 0.8, bound, "auc", "")]

    check_bounds(gates(0.75), gates(0.75))
    with pytest.raises(DemoError):
        check_bounds(gates(0.75), gates(0.78))
    with pytest.raises(DemoError):
        check_bounds(gates(0.75), [])
