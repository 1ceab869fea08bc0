"""What the clients add to plain calls: retries with one id, paging, waiting."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from hedgerow.client import ServiceClient
from hedgerow.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from hedgerow.features.v1 import features_pb2
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from hedgerow.retry import RetryBudget
from hedgerow.sdk.features import Features, matrix
from hedgerow.sdk.ingestion import Ingestion


class FailingClient(ServiceClient):
    """The client, with a connection on which the first appends fail."""

    def __init__(self, failures: list[Exception], budget: RetryBudget | None = None) -> None:
        super().__init__(None, pb.DESCRIPTOR.services_by_name["IngestionService"], budget)  # type: ignore[arg-type]
        self.failures = failures
        self.sent: list[list[pb.AppendRecordsRequest]] = []
        self.calls: list[dict[str, Any]] = []

    async def send(self, method: str, requests: Any, **context: Any) -> Any:
        self.sent.append([request async for request in requests])
        self.calls.append(context)
        if self.failures:
            raise self.failures.pop(0)
        return pb.AppendRecordsResponse(version=3)


async def test_an_append_is_repeated_with_the_same_id() -> None:
    client = FailingClient([UnavailableError("away"), UnavailableError("away")])
    table = pa.table({"value": pa.array(range(1_200_000), pa.int64())})
    answer = await Ingestion(client, "p").append("datasets/d", table)
    assert answer.version == 3
    assert len({attempt[0].request_id for attempt in client.sent}) == 1
    assert client.sent[0][0].request_id
    assert [attempt[0].dataset for attempt in client.sent] == ["datasets/d"] * 3
    assert all(len(attempt) > 1 and not attempt[1].dataset for attempt in client.sent)
    assert [call["purpose"] for call in client.calls] == ["p"] * 3
    assert len({call["request_id"] for call in client.calls}) == 1


async def test_the_attempts_of_an_append_share_a_deadline_with_pauses_between() -> None:
    client = FailingClient([UnavailableError("away")] * 4)
    with pytest.raises(UnavailableError):
        await Ingestion(client, "").append("datasets/d", pa.table({"value": [1]}), timeout=60)
    left = [call["timeout"] for call in client.calls]
    assert left[0] <= 60
    # Jitter takes at most half of a pause of 0.1, 0.2 and 0.4 seconds.
    pauses = [before - after for before, after in itertools.pairwise(left)]
    assert len(pauses) == 3
    assert all(pause >= least for pause, least in zip(pauses, (0.05, 0.1, 0.2), strict=True))


async def test_an_append_does_not_wait_beyond_its_deadline() -> None:
    client = FailingClient([UnavailableError("draining", retry_after=60)])
    with pytest.raises(UnavailableError, match="draining"):
        await Ingestion(client, "").append("datasets/d", pa.table({"value": [1]}), timeout=50)
    assert len(client.sent) == 1


async def test_appends_are_repeated_within_the_budget_of_the_connection() -> None:
    budget = RetryBudget(max_tokens=4)
    client = FailingClient([UnavailableError("away")] * 3, budget)
    with pytest.raises(UnavailableError):
        await Ingestion(client, "").append("datasets/d", pa.table({"value": [1]}))
    assert (len(client.sent), budget.tokens) == (2, 2)


@pytest.mark.parametrize("failure", [InvalidArgumentError("bad"), FailedPreconditionError("no")])
async def test_a_refused_append_is_not_repeated(failure: Exception) -> None:
    client = FailingClient([failure])
    with pytest.raises(type(failure)):
        await Ingestion(client, "").append("datasets/d", pa.table({"value": [1]}))
    assert len(client.sent) == 1


class PagingClient:
    """Stands for a service with five datasets, two a page."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def call(self, method: str, request: Any, *, timeout: float, purpose: str) -> Any:
        self.tokens.append(request.page_token)
        start = int(request.page_token or 0)
        names = [pb.Dataset(name=f"datasets/{index}") for index in range(start, min(start + 2, 5))]
        return pb.ListDatasetsResponse(datasets=names, next_page_token=str(start + 2) if start + 2 < 5 else "")


async def test_listings_go_through_all_pages() -> None:
    client = PagingClient()
    names = [dataset.name async for dataset in Ingestion(client, "").list_datasets()]  # type: ignore[arg-type]
    assert names == [f"datasets/{index}" for index in range(5)]
    assert client.tokens == ["", "2", "4"]


class WatchingClient:
    """Stands for a service whose training set passes through some states."""

    def __init__(self, states: list[features_pb2.TrainingSet]) -> None:
        self.states = states

    async def watch(self, method: str, request: Any, **_: Any) -> AsyncIterator[Any]:
        for state in self.states:
            yield state


async def test_waiting_tells_each_state_and_returns_the_last() -> None:
    running = features_pb2.TrainingSet(state=features_pb2.TrainingSet.STATE_RUNNING)
    done = features_pb2.TrainingSet(state=features_pb2.TrainingSet.STATE_SUCCEEDED, row_count=4)
    told: list[int] = []
    client = Features(WatchingClient([running, done]), "")  # type: ignore[arg-type]
    waited = await client.wait_for_training_set("trainingSets/t", progress=lambda state: told.append(state.state))
    assert waited.row_count == 4
    assert told == [running.state, done.state]


async def test_waiting_for_what_fails_says_why() -> None:
    failed = features_pb2.TrainingSet(state=features_pb2.TrainingSet.STATE_FAILED, error="no rows before the cut-off")
    client = Features(WatchingClient([failed]), "")  # type: ignore[arg-type]
    with pytest.raises(FailedPreconditionError, match="trainingSets/t did not succeed: no rows before the cut-off"):
        await client.wait_for_training_set("trainingSets/t")


async def test_a_stream_that_ends_early_is_not_success() -> None:
    with pytest.raises(FailedPreconditionError, match="ended the stream"):
        await Features(WatchingClient([]), "").wait_for_training_set("trainingSets/t")  # type: ignore[arg-type]


def test_a_block_is_a_matrix() -> None:
    values = np.array([[1.0, np.nan], [3.0, 4.0]], dtype="<f8")
    block = features_pb2.FeatureBlock(feature_names=["a", "b"], values=values.tobytes(), statuses=[1, 1])
    np.testing.assert_array_equal(matrix(block), values)
