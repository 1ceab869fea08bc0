"""What the workers of a service read of themselves, added up by their parent.

Counts in cells add up by themselves (see ``cells``). What a worker does not count there but is asked for, such as the rows
that a model has answered or the memory of the process, it tells its parent, and this is what the parent makes of it:

- a gauge is that of each living worker, told apart by the label ``worker``;
- a count is the sum over all workers. It never goes back: what a worker counted stays when it ends or begins anew. Only
  when no living worker has a series any more is it forgotten, as one process forgets it;
- a worker that does not answer in time counts as it last answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import Metric
from prometheus_client.registry import Collector

_SUMMED = ("counter", "histogram")
_BOUND = "le"

Series = tuple[str, tuple[tuple[str, str], ...]]
"""A metric and its labels."""
Values = Mapping[tuple[str, str], float]
"""By sample and bound: a histogram has several."""


def as_message(metrics: Iterable[Metric]) -> list[Any]:
    """Return metrics as what JSON can hold."""
    return [
        [metric.name, metric.type, metric.documentation, [[s.name, s.labels, s.value] for s in metric.samples]]
        for metric in metrics
    ]


class WorkerReadings(Collector):
    """The readings of all workers. Belongs to one thread at a time."""

    def __init__(self) -> None:
        self._kinds: dict[str, tuple[str, str]] = {}
        self._last: dict[str, dict[Series, Values]] = {}
        self._listed: dict[str, set[Series]] = {}
        self._ended: dict[Series, Values] = {}

    def update(self, worker: str, message: Iterable[Any]) -> None:
        """Take over what a worker reads now, as ``as_message`` put it."""
        last = self._last.setdefault(worker, {})
        listed = self._listed[worker] = set()
        for name, kind, text, samples in message:
            self._kinds[name] = kind if kind in _SUMMED else "gauge", text
            for series, values in _by_series(name, samples).items():
                if any(value > values.get(sample, 0.0) for sample, value in last.get(series, {}).items()):
                    self._retire(series, last[series])
                last[series] = values
                listed.add(series)

    def ended(self, worker: str) -> None:
        """Take note that a worker is no more."""
        self._listed.pop(worker, None)
        for series, values in self._last.pop(worker, {}).items():
            self._retire(series, values)

    def collect(self) -> Iterator[Metric]:
        """Yield what all workers read, as last told."""
        shown = set().union(*self._listed.values())
        for known in (self._ended, *self._last.values()):
            for series in known.keys() - shown:
                del known[series]  # type: ignore[attr-defined]
        families: dict[str, Metric] = {}
        for series in sorted(shown):
            name = series[0]
            kind, text = self._kinds[name]
            family = families.setdefault(name, Metric(name, text, kind))
            if kind in _SUMMED:
                self._add_sum(family, series)
            else:
                self._add_each(family, series)
        yield from families.values()

    def _add_sum(self, family: Metric, series: Series) -> None:
        total: dict[tuple[str, str], float] = {}
        for values in (self._ended.get(series, {}), *(last.get(series, {}) for last in self._last.values())):
            for sample, value in values.items():
                total[sample] = total.get(sample, 0.0) + value
        for (name, bound), value in total.items():
            family.add_sample(name, {**dict(series[1]), **({_BOUND: bound} if bound else {})}, value)

    def _add_each(self, family: Metric, series: Series) -> None:
        for worker, listed in self._listed.items():
            if series in listed:
                for (name, _), value in self._last[worker][series].items():
                    family.add_sample(name, {**dict(series[1]), "worker": worker}, value)

    def _retire(self, series: Series, values: Values) -> None:
        """Keep the counts of a worker that ended, or whose count began anew."""
        if self._kinds[series[0]][0] in _SUMMED:
            before = self._ended.get(series, {})
            self._ended[series] = {sample: value + before.get(sample, 0.0) for sample, value in values.items()}


def _by_series(name: str, samples: Iterable[Any]) -> dict[Series, dict[tuple[str, str], float]]:
    found: dict[Series, dict[tuple[str, str], float]] = {}
    for sample, labels, value in samples:
        rest = tuple(sorted((key, text) for key, text in labels.items() if key != _BOUND))
        found.setdefault((name, rest), {})[sample, labels.get(_BOUND, "")] = value
    return found
