"""What each deployed model shows. Labels are deployments and versions that serve, never what a caller names."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from libs.telemetry import Instruments
from libs.telemetry.instruments import SECONDS, Distribution, Labels
from services.inference.batching import Batcher, BatchStatistics
from services.inference.deployment import Deployment

LABELS: Final = ("deployment", "version")
BATCH_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_COUNTERS: Final[dict[str, tuple[str, Callable[[BatchStatistics], float]]]] = {
    "predictions": ("Predictions answered, in rows.", lambda s: s.rows),
    "requests": ("Requests answered.", lambda s: s.requests),
    "failures": ("Requests that failed in the model.", lambda s: s.failures),
    "expired": ("Requests dropped before they ran, since nobody waited for them any more.", lambda s: s.expired),
    "late": ("Answers that came after their caller had gone.", lambda s: s.late),
    "busy_seconds": (
        "Seconds in which the model ran, over all batches.",
        lambda s: sum(total_ns for _, total_ns in list(s.batch_sizes.values())) / 1e9,
    ),
}


class Served(Protocol):
    """Where the deployments are found."""

    def serving(self) -> Sequence[Deployment]:
        """Return those that serve."""

    def pending(self) -> Sequence[str]:
        """Return the ids of those that are known and not loaded."""


def show_models(instruments: Instruments, deployments: Served) -> None:
    """Show each model that serves; all of it is asked for when somebody scrapes."""

    def of_each(read: Callable[[Batcher], float]) -> Callable[[], dict[Labels, float]]:
        return lambda: {_labels(one): read(one.model.batcher) for one in deployments.serving()}

    def of_counts(count: Callable[[BatchStatistics], float]) -> Callable[[], dict[Labels, float]]:
        return of_each(lambda batcher: count(batcher.statistics))

    for name, (text, count) in _COUNTERS.items():
        instruments.read_counter(f"hedgerow_model_{name}", text, of_counts(count), LABELS)
    instruments.read_gauge(
        "hedgerow_model_waiting", "Requests that wait for the model.", of_each(lambda batcher: batcher.waiting), LABELS
    )
    instruments.read_gauge(
        "hedgerow_model_last_answer_time_seconds",
        "When the model last answered, seconds since 1970; 0 before the first.",
        of_each(lambda batcher: batcher.statistics.last_answer_s),
        LABELS,
    )
    instruments.read_histogram(
        "hedgerow_model_queue_seconds",
        "Seconds a request waited for the model.",
        lambda: {_labels(one): _queue(one.model.batcher.statistics) for one in deployments.serving()},
        LABELS,
    )
    instruments.read_histogram(
        "hedgerow_model_batch_rows",
        "Rows that ran together.",
        lambda: {_labels(one): _batches(one.model.batcher.statistics) for one in deployments.serving()},
        LABELS,
    )
    instruments.read_gauge(
        "hedgerow_deployments_pending",
        "Deployments that are known and not loaded.",
        lambda: {(): len(deployments.pending())},
    )


def _labels(deployment: Deployment) -> Labels:
    return deployment.record.deployment_id, deployment.record.version


def _queue(statistics: BatchStatistics) -> Distribution:
    return SECONDS, tuple(statistics.queue_counts), statistics.queue_ns / 1e9


def _batches(statistics: BatchStatistics) -> Distribution:
    counts = [0] * (len(BATCH_ROWS) + 1)
    total = 0
    for rows, (batches, _) in list(statistics.batch_sizes.items()):
        counts[bisect_left(BATCH_ROWS, rows)] += batches
        total += rows * batches
    return BATCH_ROWS, counts, total
