"""The features service with a real lake behind it: from statements to training sets and online answers."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hedgerow.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HedgerowError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
)
from hedgerow.features.v1 import features_pb2 as pb
from tests.integration.features.conftest import ACCOUNTS, FEATURES, STATEMENTS, Pair, monthly, statements, time
from tests.unit.ingestion.ingestion_fixtures import subject

LATE = pb.Feature(
    name="late", expression="count(*) filter (where pay_delay >= 1)", window_months=3, description="Late payments"
)
MEAN = pb.Feature(name="mean", expression="avg(amount)", window_months=6, mutable_fraction=0.2)
MISSED = pb.LabelCutoff(
    as_of_time=time("2005-08-31"),
    dataset="datasets/statements",
    expression="bool_or(pay_delay >= 1)",
    horizon_months=1,
)
CREDIT = "featureServices/credit"
PRESENT, NOT_FOUND, EXPIRED = (
    pb.FeatureBlock.STATUS_PRESENT,
    pb.FeatureBlock.STATUS_NOT_FOUND,
    pb.FeatureBlock.STATUS_OUTSIDE_MAX_AGE,
)


@pytest.fixture
async def credit(pair: Pair) -> Pair:
    """Statements of 40 clients, two views, one feature service."""
    await pair.dataset("statements", STATEMENTS, monthly(40))
    await pair.view("behaviour", LATE, MEAN)
    await pair.view("peak", pb.Feature(name="peak", expression="max(amount)"))
    await pair.service_of("credit", "behaviour", "peak")
    return pair


def online_request(*keys: str, service: str = CREDIT) -> pb.GetOnlineFeaturesRequest:
    return pb.GetOnlineFeaturesRequest(feature_service=service, entity_keys=keys)


def offline_request(*keys: str, as_of: str = "2005-10-01", service: str = CREDIT) -> pb.GetOfflineFeaturesRequest:
    return pb.GetOfflineFeaturesRequest(feature_service=service, entity_keys=keys, as_of_time=time(as_of))


def values(block: pb.FeatureBlock) -> np.ndarray:
    return np.frombuffer(block.values, "<f8").reshape(len(block.statuses), len(block.feature_names))


async def test_definitions_carry_what_they_inherit(credit: Pair) -> None:
    view = await credit.ask("GetFeatureView", pb.GetFeatureViewRequest(name="featureViews/behaviour"))
    assert list(view.purposes) == ["credit_risk"]
    assert list(view.tags) == ["sensitive"]
    assert [feature.name for feature in view.features] == ["late", "mean"]
    assert view.features[0] == LATE
    service = await credit.ask("GetFeatureService", pb.GetFeatureServiceRequest(name=CREDIT))
    assert list(service.feature_names) == ["behaviour.late", "behaviour.mean", "peak.peak"]
    assert list(service.feature_descriptions) == ["Late payments", "", ""]
    assert list(service.mutable_fractions) == [0.0, 0.2, 0.0]
    assert await credit.service_of("credit", "behaviour", "peak") == service
    with pytest.raises(AlreadyExistsError):
        await credit.service_of("credit", "peak")
    first = await credit.ask("ListFeatureViews", pb.ListFeatureViewsRequest(page_size=1))
    second = await credit.ask(
        "ListFeatureViews", pb.ListFeatureViewsRequest(page_size=1, page_token=first.next_page_token)
    )
    assert [page.feature_views[0].name for page in (first, second)] == ["featureViews/behaviour", "featureViews/peak"]
    assert second.next_page_token == ""
    listed = await credit.ask("ListFeatureServices", pb.ListFeatureServicesRequest())
    assert [each.name for each in listed.feature_services] == [CREDIT]


async def test_a_training_set_is_built_read_and_unmoved_by_back_filling(credit: Pair) -> None:
    before = await credit.training_set("before", MISSED)
    assert (before.state, before.error) == (pb.TrainingSet.STATE_SUCCEEDED, "")
    assert list(before.sources) == ["datasets/statements@1"]
    rows = await credit.rows(before.name)
    assert rows.num_rows == before.row_count == 40
    assert rows.schema.names == ["entity", "as_of_time", "label", "behaviour.late", "behaviour.mean", "peak.peak"]
    assert rows.schema.field("as_of_time").type == pa.timestamp("us", tz="UTC")
    entities = rows.column("entity").to_pylist()
    assert entities == sorted(subject(f"client-{client}") for client in range(40))
    await credit.append("statements", statements(("client-3", "2005-08-10", "2005-12-01", 2, 1e9)))
    after = await credit.training_set("after", MISSED)
    assert list(after.sources) == ["datasets/statements@2"]
    assert (after.digest, after.row_count) == (before.digest, before.row_count)
    assert (await credit.rows(after.name)).equals(rows)


async def test_online_bytes_equal_offline_bytes(credit: Pair) -> None:
    done = await credit.materialize(CREDIT, "2005-10-01")
    assert (done.state, done.entity_count, done.rejected_count) == (pb.Materialization.STATE_SUCCEEDED, 40, 0)
    got = await credit.ask("GetMaterialization", pb.GetMaterializationRequest(name=done.name))
    assert got == done
    keys = ["client-7", "nobody", *(f"client-{client}" for client in range(40))]
    online = await credit.ask("GetOnlineFeatures", online_request(*keys), user="creditapp")
    offline = await credit.ask("GetOfflineFeatures", offline_request(*keys), user="ben")
    assert online == offline
    assert list(online.statuses) == [PRESENT, NOT_FOUND] + [PRESENT] * 40
    assert np.isnan(values(online)[1]).all()
    assert not np.isnan(np.delete(values(online), 1, axis=0)).any()
    assert online.values[:24] == online.values[9 * 24 : 10 * 24]


async def test_a_value_past_its_ttl_is_withheld(credit: Pair) -> None:  # FS-02
    await credit.view("fresh", pb.Feature(name="peak", expression="max(amount)"), ttl_seconds=86_400)
    await credit.service_of("fresh", "fresh")
    await credit.materialize("featureServices/fresh", "2005-09-28T12:00:00")
    online = await credit.ask("GetOnlineFeatures", online_request("client-1", service="featureServices/fresh"))
    request = offline_request("client-1", as_of="2005-09-28T12:00:00", service="featureServices/fresh")
    offline = await credit.ask("GetOfflineFeatures", request, user="ben")
    assert list(online.statuses) == [EXPIRED]
    assert np.isnan(values(online)).all()
    assert list(offline.statuses) == [PRESENT]


async def test_integer_keys_meet_however_they_are_written(pair: Pair) -> None:  # FS-14
    utc = pa.timestamp("us", tz="UTC")
    rows = pa.table(
        {
            "account": pa.array([1, 2**40], pa.int64()),
            "opened": pa.array([0, 0], utc),
            "balance": pa.array([1.5, 2.5]),
        }
    )
    await pair.dataset("accounts", ACCOUNTS, rows)
    await pair.view(
        "accounts", pb.Feature(name="b", expression="max(balance)"), dataset="accounts", entity_column="account"
    )
    await pair.service_of("accounts", "accounts")
    name = "featureServices/accounts"
    await pair.materialize(name, "2005-10-01")
    keys = ("1", "+01", str(2**40), "3")
    online = await pair.ask("GetOnlineFeatures", online_request(*keys, service=name))
    assert online.values == struct.pack("<4d", 1.5, 1.5, 2.5, float("nan"))
    assert online == await pair.ask("GetOfflineFeatures", offline_request(*keys, service=name))
    for key in ("1.0", "one", str(2**63)):
        with pytest.raises(InvalidArgumentError) as caught:
            await pair.ask("GetOnlineFeatures", online_request("1", key, service=name))
        assert list(caught.value.fields) == ["entity_keys[1]"]


async def test_purposes_bind_features_as_they_bind_the_columns(credit: Pair) -> None:
    await credit.materialize(CREDIT, "2005-10-01")
    for user, purpose in (("mia", "marketing"), ("mia", "credit_risk"), ("creditapp", "marketing"), ("creditapp", "")):
        with pytest.raises(PermissionDeniedError) as caught:
            await credit.ask("GetOnlineFeatures", online_request("client-1"), user=user, purpose=purpose)
        assert caught.value.reason == "PURPOSE_NOT_PERMITTED"
    protected = pb.FeatureView(
        dataset="datasets/statements",
        entity_column="client_id",
        features=[pb.Feature(name="f", expression="count(distinct sex)")],
    )
    request = pb.CreateFeatureViewRequest(feature_view_id="protected", feature_view=protected)
    view = await credit.ask("CreateFeatureView", request, user="ben", purpose="fairness_audit")
    assert list(view.purposes) == ["fairness_audit"]
    with pytest.raises(InvalidArgumentError) as refused:
        await credit.service_of("mixed", "behaviour", "protected")
    assert list(refused.value.fields) == ["feature_service.feature_views"]
    await credit.service_of("protected", "protected")
    request = offline_request("client-1", service="featureServices/protected")
    with pytest.raises(PermissionDeniedError):
        await credit.ask("GetOfflineFeatures", request, user="ben", purpose="credit_risk")
    block = await credit.ask("GetOfflineFeatures", request, user="ben", purpose="fairness_audit")
    assert values(block).tolist() == [[1.0]]


async def test_erasing_a_subject_reaches_every_store_and_names_nobody(credit: Pair) -> None:
    done = await credit.training_set("set", MISSED)
    await credit.materialize(CREDIT, "2005-10-01")
    pseudonym = subject("client-5")
    request = pb.EraseSubjectRequest(domain="credit", pseudonym=pseudonym, erasure_request="erasureRequests/one")
    governance = credit.service("governance")
    answer = await governance.call("EraseSubject", request, timeout=20)
    found = {store.store: (store.rows_erased, store.remaining_hits, store.error) for store in answer.stores}
    assert found == {"onlineStore": (2, 0, ""), "trainingSets": (1, 0, "")}
    assert all(store.service == "features" and store.objects_searched for store in answer.stores)
    assert pseudonym not in (await credit.rows(done.name)).column("entity").to_pylist()
    online = await credit.ask("GetOnlineFeatures", online_request("client-5", "client-6"))
    assert list(online.statuses) == [NOT_FOUND, PRESENT]
    again = await governance.call("EraseSubject", request, timeout=20)
    assert [(store.rows_erased, store.remaining_hits) for store in again.stores] == [(0, 0), (0, 0)]
    for event in credit.features.events:
        assert pseudonym not in repr(event)
        assert "client-" not in repr(event)
    for path in credit.features.tmp.parent.rglob("*"):
        if path.is_file() and "lake" not in path.parts:
            assert pseudonym.encode() not in path.read_bytes()
    with pytest.raises(PermissionDeniedError):
        await credit.user("ana").call("EraseSubject", request, timeout=20)


async def test_rows_are_read_only_when_there_are_any(credit: Pair) -> None:
    future = pb.LabelCutoff()
    future.CopyFrom(MISSED)
    future.as_of_time.CopyFrom(time("2030-01-01"))
    done = await credit.training_set("none", future)
    assert done.state == pb.TrainingSet.STATE_FAILED
    assert "no entity has an outcome" in done.error
    with pytest.raises(FailedPreconditionError) as caught:
        await credit.rows(done.name)
    assert (caught.value.reason, caught.value.metadata) == ("STATE_CONFLICT", {"state": "FAILED"})


def bad_requests() -> list[tuple[str, Any, type[HedgerowError], str]]:
    """Each RPC with what is wrong, its class of error, and the field or resource named."""
    view = pb.FeatureView(dataset="datasets/statements", entity_column="client_id", features=[LATE])

    def create_view(view_id: str = "x", **changes: Any) -> pb.CreateFeatureViewRequest:
        request = pb.CreateFeatureViewRequest(feature_view_id=view_id, feature_view=view)
        if "features" in changes:
            del request.feature_view.features[:]
        request.feature_view.MergeFrom(pb.FeatureView(**changes))
        return request

    def create_set(set_id: str = "x", **changes: Any) -> pb.CreateTrainingSetRequest:
        cutoff = pb.LabelCutoff()
        cutoff.CopyFrom(MISSED)
        cutoff.MergeFrom(pb.LabelCutoff(**{key: value for key, value in changes.items() if key != "feature_service"}))
        wanted = pb.TrainingSet(feature_service=changes.get("feature_service", CREDIT), cutoffs=[cutoff])
        return pb.CreateTrainingSetRequest(training_set_id=set_id, training_set=wanted)

    def create_service(*names: str, service_id: str = "x") -> pb.CreateFeatureServiceRequest:
        wanted = pb.FeatureService(feature_views=names)
        return pb.CreateFeatureServiceRequest(feature_service_id=service_id, feature_service=wanted)

    untimed = create_set()
    untimed.training_set.cutoffs[0].ClearField("as_of_time")
    bad, none = InvalidArgumentError, NotFoundError
    future = pb.CreateMaterializationRequest(feature_service=CREDIT, as_of_time=time("2999-01-01"))
    nanos = pb.GetOfflineFeaturesRequest(feature_service=CREDIT, entity_keys=["a"])
    nanos.as_of_time.nanos = -1
    return [
        ("CreateFeatureView", create_view("Bad Id"), bad, "feature_view_id"),
        ("CreateFeatureView", create_view(dataset="statements"), bad, "feature_view.dataset"),
        ("CreateFeatureView", create_view(dataset="datasets/nothing"), none, "datasets/nothing"),
        ("CreateFeatureView", create_view(entity_column="sex"), bad, "feature_view.entity_column"),
        (
            "CreateFeatureView",
            create_view(features=[LATE, pb.Feature(name="f", expression="max(random())")]),
            bad,
            "feature_view.features[1].expression",
        ),
        (
            "CreateFeatureView",
            create_view(features=[pb.Feature(name="f", expression="max(sex)")]),
            bad,
            "feature_view.features[0].expression",
        ),
        ("GetFeatureView", pb.GetFeatureViewRequest(name="featureViews/x"), none, "featureViews/x"),
        ("GetFeatureView", pb.GetFeatureViewRequest(name="x"), bad, "name"),
        ("ListFeatureViews", pb.ListFeatureViewsRequest(page_size=-1), bad, "page_size"),
        ("ListFeatureViews", pb.ListFeatureViewsRequest(page_token="%"), bad, "page_token"),
        ("CreateFeatureService", create_service(), bad, "feature_service.feature_views"),
        ("CreateFeatureService", create_service("featureViews/x"), none, "featureViews/x"),
        ("CreateFeatureService", create_service("x"), bad, "feature_service.feature_views[0]"),
        ("CreateFeatureService", create_service("featureViews/peak", service_id=""), bad, "feature_service_id"),
        ("GetFeatureService", pb.GetFeatureServiceRequest(name="featureServices/x"), none, "featureServices/x"),
        ("ListFeatureServices", pb.ListFeatureServicesRequest(page_size=-1), bad, "page_size"),
        ("CreateTrainingSet", create_set("A"), bad, "training_set_id"),
        ("CreateTrainingSet", create_set(feature_service="credit"), bad, "training_set.feature_service"),
        ("CreateTrainingSet", create_set(feature_service="featureServices/x"), none, "featureServices/x"),
        ("CreateTrainingSet", create_set(dataset="x"), bad, "training_set.cutoffs[0].dataset"),
        ("CreateTrainingSet", create_set(dataset="datasets/nothing"), none, "datasets/nothing"),
        ("CreateTrainingSet", create_set(expression="max(pay_delay)"), bad, "training_set.cutoffs[0].expression"),
        ("CreateTrainingSet", create_set(horizon_months=-1), bad, "training_set.cutoffs[0].horizon_months"),
        ("CreateTrainingSet", untimed, bad, "training_set.cutoffs[0].as_of_time"),
        ("GetTrainingSet", pb.GetTrainingSetRequest(name="trainingSets/x"), none, "trainingSets/x"),
        ("CreateMaterialization", future, bad, "as_of_time"),
        (
            "CreateMaterialization",
            pb.CreateMaterializationRequest(feature_service="featureServices/x"),
            none,
            "featureServices/x",
        ),
        ("GetMaterialization", pb.GetMaterializationRequest(name="materializations/x"), none, "materializations/x"),
        ("GetOnlineFeatures", online_request(), bad, "entity_keys"),
        ("GetOnlineFeatures", online_request(*["a"] * 1001), bad, "entity_keys"),
        ("GetOnlineFeatures", online_request("a", ""), bad, "entity_keys[1]"),
        ("GetOnlineFeatures", online_request("a", service="featureServices/x"), none, "featureServices/x"),
        ("GetOfflineFeatures", offline_request("a", service="x"), bad, "feature_service"),
        ("GetOfflineFeatures", nanos, bad, "as_of_time"),
        (
            "GetOfflineFeatures",
            pb.GetOfflineFeaturesRequest(feature_service=CREDIT, entity_keys=["a"]),
            bad,
            "as_of_time",
        ),
    ]


async def test_bad_input_gets_its_exact_code_and_names_what_is_wrong(credit: Pair) -> None:
    for method, request, error, named in bad_requests():
        # The data engineer may call everything but ben's training sets.
        user = "ben" if "TrainingSet" in method else "ana"
        with pytest.raises(error) as caught:
            await credit.ask(method, request, user=user)
        assert type(caught.value) is error, (method, named)
        if error is InvalidArgumentError:
            assert list(caught.value.fields) == [named], method
            assert caught.value.reason == "FIELD_INVALID"
        else:
            assert caught.value.reason == "RESOURCE_NOT_FOUND"
            assert named in caught.value.message
    for method, request in (
        ("WatchTrainingSet", pb.WatchTrainingSetRequest(name="trainingSets/x")),
        ("ReadTrainingSet", pb.ReadTrainingSetRequest(name="trainingSets/x")),
        ("WatchMaterialization", pb.WatchMaterializationRequest(name="materializations/x")),
    ):
        with pytest.raises(NotFoundError):
            _ = [each async for each in credit.user("ben").stream(method, request, purpose="credit_risk", timeout=9)]
    erase = {"domain": "credit", "pseudonym": "0" * 32, "erasure_request": "erasureRequests/one"}
    for field, value in (("domain", ""), ("pseudonym", "client-1"), ("erasure_request", "one")):
        with pytest.raises(InvalidArgumentError) as caught:
            request = pb.EraseSubjectRequest(**{**erase, field: value})
            await credit.service("governance").call("EraseSubject", request, timeout=9)
        assert list(caught.value.fields) == [field]


async def test_an_identity_without_rights_is_refused_at_every_rpc(pair: Pair) -> None:
    nobody = pair.user("nobody")
    for method in FEATURES.methods:
        request = getattr(pb, method.input_type.name)()
        with pytest.raises(PermissionDeniedError):
            if method.server_streaming:
                _ = [each async for each in nobody.stream(method.name, request, timeout=9)]
            else:
                await nobody.call(method.name, request, timeout=9)
        assert pair.features.events[-1].decision == "deny"
        assert pair.features.events[-1].action == f"features.{method.name}"
