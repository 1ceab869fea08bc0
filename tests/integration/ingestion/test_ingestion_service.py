"""Every RPC of ingestion over mutual TLS: what it answers, and the exact code and reason when it refuses."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import pyarrow as pa
import pytest

from hedgerow import names
from hedgerow.errors import (
    AlreadyExistsError,
    FailedPreconditionError,
    HedgerowError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
)
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from tests.integration.ingestion.conftest import DESCRIPTOR, Ingestion, contract_message, messages
from tests.support.authority import service_id, user_id
from tests.unit.ingestion.ingestion_fixtures import NOW, ipc, subject, table_of

REQUEST_ID = str(uuid.UUID(int=7))
RECEIPT = "erasureRequests/e1"


async def test_create_get_and_list(ingestion: Ingestion) -> None:
    made = await ingestion.create()
    assert (made.name, made.version, made.row_count, made.quarantined_row_count) == ("datasets/clients", 0, 0, 0)
    assert made.contract == contract_message()
    assert made.create_time.ToMicroseconds() == int(NOW * 1_000_000)
    assert await ingestion.create() == made, "the same again is the same"
    for name in ("b_set", "a_set"):
        await ingestion.create(name)
    ana = ingestion.user("ana")
    assert await ana.call("GetDataset", pb.GetDatasetRequest(name=made.name)) == made
    first = await ana.call("ListDatasets", pb.ListDatasetsRequest(page_size=2))
    assert [d.name for d in first.datasets] == ["datasets/a_set", "datasets/b_set"]
    rest = await ana.call("ListDatasets", pb.ListDatasetsRequest(page_size=2, page_token=first.next_page_token))
    assert [d.name for d in rest.datasets] == ["datasets/clients"]
    assert rest.next_page_token == ""


async def test_append_quarantine_and_read(ingestion: Ingestion) -> None:
    await ingestion.create()
    done = await ingestion.append(table_of("a", "", "b"), table_of("c", None), request_id=REQUEST_ID)
    assert (done.version, done.row_count, done.quarantined_row_count) == (1, 3, 2)
    again = await ingestion.append(table_of("a", "", "b"), table_of("c", None), request_id=REQUEST_ID)
    assert again == done
    assert ingestion.served.events[-1].detail == {"rows": 3, "quarantined": 2}

    ana = ingestion.user("ana")
    request = pb.ListQuarantinedRecordsRequest(dataset="datasets/clients", page_size=1)
    page = await ana.call("ListQuarantinedRecords", request)
    assert [(r.row_index, r.reason, r.request_id) for r in page.records] == [
        (4, "column client_id: a key is null", REQUEST_ID)
    ]
    request.page_token = page.next_page_token
    page = await ana.call("ListQuarantinedRecords", request)
    assert [(r.row_index, r.reason) for r in page.records] == [(1, "column client_id: a key is empty")]
    assert page.next_page_token == ""

    snapshot = await ingestion.open("credit_risk", "client_id", "ratio")
    assert (snapshot.version, snapshot.row_count, list(snapshot.columns)) == (1, 3, ["client_id", "ratio"])
    rows = ingestion.read(snapshot, user_id("ben"))
    assert sorted(rows.column("client_id").to_pylist()) == sorted(subject(c) for c in "abc")


async def test_a_version_is_read_as_it_was(ingestion: Ingestion) -> None:
    await ingestion.create()
    await ingestion.append(table_of("a"))
    await ingestion.append(table_of("b"))
    old = await ingestion.open("credit_risk", version=1)
    assert ingestion.read(old, user_id("ben")).column("client_id").to_pylist() == [subject("a")]
    with pytest.raises(NotFoundError):
        await ingestion.open("credit_risk", version=3)
    with pytest.raises(InvalidArgumentError) as caught:
        await ingestion.open("credit_risk", version=-1)
    assert list(caught.value.fields) == ["version"]


async def test_a_grant_opens_the_columns_of_the_purpose_for_the_caller_alone(ingestion: Ingestion) -> None:
    await ingestion.create()
    await ingestion.append(table_of("a", sex=pa.array(["f"])))
    snapshot = await ingestion.open("credit_risk")
    assert "sex" not in snapshot.columns
    grant = ingestion.grant(snapshot)
    assert grant.grantee == user_id("ben")
    with pytest.raises(PermissionDeniedError):
        ingestion.read(snapshot, user_id("mia"))
    # A reader that claims a column it was not given has no key for it.
    snapshot.columns.append("sex")
    with pytest.raises(PermissionDeniedError) as caught:
        ingestion.read(snapshot, user_id("ben"))
    assert caught.value.reason == "GRANT_INVALID"
    audit = await ingestion.open("fairness_audit")
    assert list(audit.columns) == ["client_id", "opened_at", "sex"]
    assert ingestion.read(audit, user_id("ben")).column("sex").to_pylist() == ["f"]


async def test_a_service_reads_on_behalf_of_a_user_only(ingestion: Ingestion) -> None:
    await ingestion.create()
    features = ingestion.service("features")
    request = pb.OpenSnapshotRequest(dataset="datasets/clients")
    token = ingestion.delegation("features", "ben", "credit_risk")
    snapshot = await features.call("OpenSnapshot", request, purpose="credit_risk", on_behalf_of=token)
    assert ingestion.grant(snapshot).grantee == service_id("features")
    with pytest.raises(PermissionDeniedError):
        await features.call("OpenSnapshot", request, purpose="credit_risk")
    marketing = ingestion.delegation("features", "mia", "marketing")
    with pytest.raises(PermissionDeniedError) as caught:
        await features.call("OpenSnapshot", request, purpose="marketing", on_behalf_of=marketing)
    assert caught.value.reason == "PURPOSE_NOT_PERMITTED"


@pytest.mark.parametrize(
    ("user", "purpose", "columns"),
    [("mia", "marketing", []), ("mia", "credit_risk", []), ("ben", "", []), ("ben", "credit_risk", ["sex"])],
)
async def test_other_purposes_are_refused(ingestion: Ingestion, user: str, purpose: str, columns: list[str]) -> None:
    await ingestion.create()
    with pytest.raises(PermissionDeniedError) as caught:
        await ingestion.open(purpose, *columns, user=user)
    assert caught.value.reason == "PURPOSE_NOT_PERMITTED"


async def erase(ingestion: Ingestion, pseudonym: str) -> dict[str, Any]:
    request = pb.EraseSubjectRequest(domain="credit", pseudonym=pseudonym, erasure_request=RECEIPT)
    answer = await ingestion.service("governance").call("EraseSubject", request)
    return {store.store: store for store in answer.stores}


async def test_an_erased_subject_is_gone_and_its_versions_name_the_receipt(ingestion: Ingestion) -> None:
    await ingestion.create()
    await ingestion.append(table_of("anna", "bert"))
    await ingestion.append(table_of("anna", limit=pa.array([-1], pa.int64())))
    stores = await erase(ingestion, subject("anna"))
    assert {name: (s.service, s.rows_erased, s.remaining_hits, s.error) for name, s in stores.items()} == {
        "lake": ("ingestion", 1, 0, ""),
        "quarantine": ("ingestion", 1, 0, ""),
    }
    with pytest.raises(FailedPreconditionError) as caught:
        await ingestion.open("credit_risk", version=1)
    assert (caught.value.reason, caught.value.metadata["receipt"]) == ("VERSION_ERASED", RECEIPT)
    latest = await ingestion.open("credit_risk")
    assert ingestion.read(latest, user_id("ben")).column("client_id").to_pylist() == [subject("bert")]
    assert (await erase(ingestion, subject("anna")))["lake"].rows_erased == 0


async def test_what_an_append_refuses(ingestion: Ingestion) -> None:
    await ingestion.create()
    good = ipc(table_of("a"))
    cases: list[tuple[str, str, list[bytes], type[HedgerowError], str]] = [
        ("datasets/none", REQUEST_ID, [good], NotFoundError, "RESOURCE_NOT_FOUND"),
        ("datasets/Bad Name", REQUEST_ID, [good], InvalidArgumentError, "FIELD_INVALID"),
        ("datasets/clients", "no-uuid", [good], InvalidArgumentError, "FIELD_INVALID"),
        ("datasets/clients", REQUEST_ID, [b"no arrow"], InvalidArgumentError, "ARROW_INVALID"),
        ("datasets/clients", REQUEST_ID, [bytes(16 << 20)], InvalidArgumentError, "ARROW_INVALID"),
        ("datasets/clients", REQUEST_ID, [good, good[:-9]], InvalidArgumentError, "ARROW_INVALID"),
        ("datasets/clients", REQUEST_ID, [bytes(17 << 20)], ResourceExhaustedError, "MESSAGE_TOO_LARGE"),
        (
            "datasets/clients",
            REQUEST_ID,
            [ipc(table_of("x" * 700_000))] * 2,
            ResourceExhaustedError,
            "MESSAGE_TOO_LARGE",
        ),
    ]
    for dataset, request_id, contents, kind, reason in cases:
        with pytest.raises(kind) as caught:
            await ingestion.user("ana").send("AppendRecords", messages(dataset, request_id, contents))
        assert caught.value.reason == reason
    naive = table_of("a", opened_at=pa.array([0], pa.timestamp("us")))
    with pytest.raises(InvalidArgumentError) as caught:
        await ingestion.append(naive)
    assert list(caught.value.fields) == ["arrow_ipc.opened_at"]
    dataset = await ingestion.user("ana").call("GetDataset", pb.GetDatasetRequest(name="datasets/clients"))
    assert (dataset.version, dataset.row_count, dataset.quarantined_row_count) == (0, 0, 0)


async def test_one_append_is_of_one_dataset(ingestion: Ingestion) -> None:
    await ingestion.create()
    await ingestion.create("others")

    async def mixed() -> Any:
        yield pb.AppendRecordsRequest(dataset="datasets/clients", request_id=REQUEST_ID, arrow_ipc=ipc(table_of("a")))
        yield pb.AppendRecordsRequest(dataset="datasets/others", arrow_ipc=ipc(table_of("b")))

    with pytest.raises(InvalidArgumentError) as caught:
        await ingestion.user("ana").send("AppendRecords", mixed())
    assert list(caught.value.fields) == ["dataset"]


async def test_an_append_that_breaks_off_leaves_nothing(ingestion: Ingestion) -> None:
    await ingestion.create()
    started = asyncio.Event()

    async def endless() -> Any:
        yield pb.AppendRecordsRequest(dataset="datasets/clients", request_id=REQUEST_ID, arrow_ipc=ipc(table_of("a")))
        started.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(ingestion.user("ana").send("AppendRecords", endless()))
    await started.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    dataset = await ingestion.user("ana").call("GetDataset", pb.GetDatasetRequest(name="datasets/clients"))
    assert (dataset.version, dataset.row_count) == (0, 0)
    assert (await ingestion.append(table_of("a"), request_id=REQUEST_ID)).version == 1


@pytest.mark.parametrize(
    ("method", "request_message", "kind", "field"),
    [
        ("CreateDataset", pb.CreateDatasetRequest(dataset_id="Bad"), InvalidArgumentError, "dataset_id"),
        ("CreateDataset", pb.CreateDatasetRequest(dataset_id="empty"), InvalidArgumentError, "contract.columns"),
        ("GetDataset", pb.GetDatasetRequest(name="datasets/none"), NotFoundError, None),
        ("GetDataset", pb.GetDatasetRequest(name="none"), InvalidArgumentError, "name"),
        ("ListDatasets", pb.ListDatasetsRequest(page_size=-1), InvalidArgumentError, "page_size"),
        ("ListDatasets", pb.ListDatasetsRequest(page_token="!"), InvalidArgumentError, "page_token"),
        ("ListQuarantinedRecords", pb.ListQuarantinedRecordsRequest(dataset="datasets/none"), NotFoundError, None),
        (
            "ListQuarantinedRecords",
            pb.ListQuarantinedRecordsRequest(dataset="datasets/clients", page_token="YWJj"),
            InvalidArgumentError,
            "page_token",
        ),
        *(
            (
                "ListQuarantinedRecords",
                pb.ListQuarantinedRecordsRequest(
                    dataset="datasets/clients", page_token=names.encode_page_token("9" * digits)
                ),
                InvalidArgumentError,
                "page_token",
            )
            for digits in (19, 5000)
        ),
        ("OpenSnapshot", pb.OpenSnapshotRequest(dataset="datasets/none"), NotFoundError, None),
    ],
)
async def test_bad_requests_get_their_code_and_field(
    ingestion: Ingestion, method: str, request_message: Any, kind: type[HedgerowError], field: str | None
) -> None:
    await ingestion.create()
    with pytest.raises(kind) as caught:
        await ingestion.user("ana").call(method, request_message, purpose="credit_risk")
    if field:
        assert field in caught.value.fields


@pytest.mark.parametrize(
    ("request_message", "field"),
    [
        (pb.EraseSubjectRequest(domain="credit", pseudonym="anna", erasure_request=RECEIPT), "pseudonym"),
        (pb.EraseSubjectRequest(domain="", pseudonym="0" * 32, erasure_request=RECEIPT), "domain"),
        (pb.EraseSubjectRequest(domain="credit", pseudonym="0" * 32, erasure_request="e1"), "erasure_request"),
    ],
)
async def test_an_erasure_names_its_subject_and_request(
    ingestion: Ingestion, request_message: pb.EraseSubjectRequest, field: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await ingestion.service("governance").call("EraseSubject", request_message)
    assert list(caught.value.fields) == [field]


async def test_another_contract_under_the_same_name_is_refused(ingestion: Ingestion) -> None:
    await ingestion.create()
    contract = contract_message()
    contract.retention_days = 1
    with pytest.raises(AlreadyExistsError):
        await ingestion.user("ana").call(
            "CreateDataset", pb.CreateDatasetRequest(dataset_id="clients", contract=contract)
        )


async def test_an_identity_without_rights_is_refused_everywhere(ingestion: Ingestion) -> None:
    await ingestion.create()
    stranger = ingestion.user("stranger")
    name = "datasets/clients"
    requests: dict[str, Any] = {
        "CreateDataset": pb.CreateDatasetRequest(dataset_id="x", contract=contract_message()),
        "GetDataset": pb.GetDatasetRequest(name=name),
        "ListDatasets": pb.ListDatasetsRequest(),
        "ListQuarantinedRecords": pb.ListQuarantinedRecordsRequest(dataset=name),
        "OpenSnapshot": pb.OpenSnapshotRequest(dataset=name),
        "EraseSubject": pb.EraseSubjectRequest(domain="credit", pseudonym="0" * 32, erasure_request=RECEIPT),
    }
    assert {*requests, "AppendRecords"} == {method.name for method in DESCRIPTOR.methods}
    for method, request in requests.items():
        with pytest.raises(PermissionDeniedError):
            await stranger.call(method, request)
    with pytest.raises(PermissionDeniedError):
        await stranger.send("AppendRecords", messages(name, REQUEST_ID, [ipc(table_of("a"))]))
