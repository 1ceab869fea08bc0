"""Counters, histograms and gauges whose labels are bounded and whose use costs next to nothing.

Label values often come from callers in the end, so every metric has a bound on its sets of label values; past it, new
ones share ``other``. A count is one addition to a cell (see ``cells``). What other parts of the service count anyway is
not counted twice: a *reading* asks for it when somebody scrapes. Only configured names, methods, codes and reasons are
labels, never anything about a person.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple, Protocol, TypeVar

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from libs.telemetry.cells import Cells, MemoryCells, Row
from libs.telemetry.logs import get_logger

MAX_LABEL_SETS = 256
MAX_LABEL = 80
OTHER = "other"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

log = get_logger()

Labels = tuple[str, ...]
Distribution = tuple[Sequence[float], Sequence[float], float]
"""Upper bounds, counts (one more than bounds) and the sum of all values."""
Read = Callable[[], Mapping[Labels, float]]


class Shape(NamedTuple):
    """What a metric that is counted in cells is, without its counts."""

    kind: str
    name: str
    text: str
    labels: Sequence[str]
    bounds: Sequence[float] = ()


class _Family(ABC):
    """A metric with labelled rows of cells."""

    kind: str
    width = 1
    bounds: Sequence[float] = ()

    def __init__(self, cells: Cells, name: str, text: str, labels: Sequence[str], limit: int) -> None:
        self.name, self.text, self.labels = name, text, tuple(labels)
        self._cells = cells
        # Their list or map stays the same, so hot paths may keep it.
        self.values = cells.values
        self._limit = limit
        # Those of the worker whose slot this one took over count against the bound too.
        self._starts = {key[1:]: cells.row(key, self.width) for key in cells.known() if key[0] == name}

    def start(self, labels: Labels) -> int:
        """Return the first cell of a set of label values, or of ``other`` when there are too many sets."""
        start = self._starts.get(labels)
        if start is None:
            if len(self._starts) >= self._limit:
                labels = (OTHER,) * len(self.labels)
            if (start := self._starts.get(labels)) is None:
                key = (self.name, *(label[:MAX_LABEL] for label in labels))
                start = self._starts[labels] = self._cells.row(key, self.width)
        return start

    def shape(self) -> Shape:
        """Return what others need to know to show it."""
        return Shape(self.kind, self.name, self.text, self.labels, self.bounds)

    @abstractmethod
    def family(self, rows: Sequence[Row]) -> Metric:
        """Return what a scrape is told."""

    def _sums(self, rows: Sequence[Row]) -> dict[Labels, tuple[float, ...]]:
        sums: dict[Labels, tuple[float, ...]] = {} if self.labels else {(): (0.0,) * self.width}
        for row in rows:
            labels, before = row.key[1:], sums.get(row.key[1:])
            sums[labels] = row.values if before is None else tuple(map(sum, zip(before, row.values, strict=True)))
        return sums


class Counter(_Family):
    """Only ever grows, over all workers and their restarts."""

    kind = "counter"

    def add(self, *labels: str, by: float = 1.0) -> None:
        """Add to the count of these label values."""
        self.values[self.start(labels)] += by

    def family(self, rows: Sequence[Row]) -> Metric:
        """See ``_Family``."""
        family = CounterMetricFamily(self.name, self.text, labels=self.labels)
        for labels, (value,) in self._sums(rows).items():
            family.add_metric(labels, value)
        return family


class Histogram(_Family):
    """Counts by upper bound, and their sum."""

    kind = "histogram"

    def __init__(
        self, cells: Cells, name: str, text: str, labels: Sequence[str], limit: int, bounds: Sequence[float]
    ) -> None:
        self.bounds = tuple(bounds)
        self.width = len(self.bounds) + 2
        super().__init__(cells, name, text, labels, limit)

    def observe(self, value: float, *labels: str) -> None:
        """Count a value."""
        self.observe_at(self.start(labels), value)

    def observe_at(self, start: int, value: float) -> None:
        """Count a value in the row that begins at a cell, for those who keep it."""
        values = self.values
        values[start] += value
        values[start + 1 + bisect_left(self.bounds, value)] += 1

    def family(self, rows: Sequence[Row]) -> Metric:
        """See ``_Family``."""
        family = HistogramMetricFamily(self.name, self.text, labels=self.labels)
        for labels, (total, *counts) in self._sums(rows).items():
            family.add_metric(labels, _buckets(self.bounds, counts), total)
        return family


class Gauge(_Family):
    """A value of each living worker; those of several are told apart by the label ``worker``."""

    kind = "gauge"

    def set(self, value: float, *labels: str) -> None:
        """Set the value of these label values."""
        self.values[self.start(labels)] = value

    def family(self, rows: Sequence[Row]) -> Metric:
        """See ``_Family``."""
        several = any(row.worker for row in rows)
        family = GaugeMetricFamily(self.name, self.text, labels=(*self.labels, *(["worker"] if several else [])))
        for row in rows:
            if row.alive:
                family.add_metric((*row.key[1:], *([row.worker] if several else [])), row.values[0])
        return family


class _Reading:
    """A metric that is asked for when somebody scrapes."""

    def __init__(self, kind: type[Metric], name: str, text: str, labels: Sequence[str], read: Read) -> None:
        self.name, self._kind, self._text, self._labels, self._read = name, kind, text, tuple(labels), read

    def family(self, rows: Sequence[Row]) -> Metric:
        """Ask for the values; those past the bound are added up as ``other``."""
        family = self._kind(self.name, self._text, labels=self._labels)  # type: ignore[call-arg]
        read = sorted(self._read().items())
        for labels, value in read[:MAX_LABEL_SETS]:
            family.add_metric(tuple(label[:MAX_LABEL] for label in labels), value)  # type: ignore[attr-defined]
        if rest := read[MAX_LABEL_SETS:]:
            family.add_metric((OTHER,) * len(self._labels), sum(value for _, value in rest))  # type: ignore[attr-defined]
        return family


class _ReadHistogram:
    """A histogram that is asked for when somebody scrapes."""

    def __init__(
        self, name: str, text: str, labels: Sequence[str], read: Callable[[], Mapping[Labels, Distribution]]
    ) -> None:
        self.name, self._text, self._labels, self._read = name, text, tuple(labels), read

    def family(self, rows: Sequence[Row]) -> Metric:
        """Ask for the values; those past the bound are left out."""
        family = HistogramMetricFamily(self.name, self._text, labels=self._labels)
        for labels, (bounds, counts, total) in sorted(self._read().items())[:MAX_LABEL_SETS]:
            family.add_metric(tuple(label[:MAX_LABEL] for label in labels), _buckets(bounds, counts), total)
        return family


def _buckets(bounds: Sequence[float], counts: Sequence[float]) -> list[tuple[str, float]]:
    """Return (upper bound, values up to it) as Prometheus writes them."""
    return list(zip([*map(repr, map(float, bounds)), "+Inf"], accumulate(counts), strict=True))


class _Exposed(Protocol):
    name: str

    def family(self, rows: Sequence[Row]) -> Metric: ...


M = TypeVar("M", bound=_Exposed)


class Instruments(Collector):
    """The metrics of a process, in the registry that is scraped."""

    def __init__(self, registry: CollectorRegistry, cells: Cells | None = None) -> None:
        """Make none yet.

        Args:
            registry: what is scraped.
            cells: where the counts are kept; memory by default.
        """
        self._cells = cells or MemoryCells()
        self._metrics: list[_Exposed] = []
        registry.register(self)

    def counter(self, name: str, text: str, labels: Sequence[str] = (), *, limit: int = MAX_LABEL_SETS) -> Counter:
        """Make a counter, whose name goes without ``_total``."""
        return self._add(Counter(self._cells, name, text, labels, limit))

    def histogram(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        bounds: Sequence[float] = SECONDS,
        limit: int = MAX_LABEL_SETS,
    ) -> Histogram:
        """Make a histogram with these upper bounds."""
        return self._add(Histogram(self._cells, name, text, labels, limit, bounds))

    def gauge(self, name: str, text: str, labels: Sequence[str] = (), *, limit: int = MAX_LABEL_SETS) -> Gauge:
        """Make a gauge that is set."""
        return self._add(Gauge(self._cells, name, text, labels, limit))

    def read_gauge(self, name: str, text: str, read: Read, labels: Sequence[str] = ()) -> None:
        """Make a gauge that is asked for, from a thread of the scrape."""
        self._add(_Reading(GaugeMetricFamily, name, text, labels, read))

    def read_counter(self, name: str, text: str, read: Read, labels: Sequence[str] = ()) -> None:
        """Make a counter that is asked for, from a thread of the scrape."""
        self._add(_Reading(CounterMetricFamily, name, text, labels, read))

    def read_histogram(
        self, name: str, text: str, read: Callable[[], Mapping[Labels, Distribution]], labels: Sequence[str] = ()
    ) -> None:
        """Make a histogram that is asked for, from a thread of the scrape."""
        self._add(_ReadHistogram(name, text, labels, read))

    def shapes(self) -> list[Shape]:
        """Return those that are counted in cells."""
        return [metric.shape() for metric in list(self._metrics) if isinstance(metric, _Family)]

    def mirror(self, shape: Shape) -> None:
        """Show a metric that other processes count in these cells; again is once."""
        if any(metric.name == shape.name for metric in self._metrics):
            return
        if shape.kind == Histogram.kind:
            self.histogram(shape.name, shape.text, shape.labels, bounds=shape.bounds)
        else:
            self._add(
                (Counter if shape.kind == Counter.kind else Gauge)(
                    self._cells, shape.name, shape.text, shape.labels, MAX_LABEL_SETS
                )
            )

    def readings(self) -> Iterator[Metric]:
        """Yield those that are asked for, less any that cannot tell now."""
        for metric in list(self._metrics):
            if not isinstance(metric, _Family):
                try:
                    yield metric.family([])
                except Exception as error:  # one that asks a database must not take the others with it
                    log.warning("reading_failed", metric=metric.name, error=type(error).__name__)

    def collect(self) -> Iterator[Metric]:
        """Yield every metric with what it is now."""
        rows: dict[str, list[Row]] = {}
        for row in self._cells.rows():
            rows.setdefault(row.key[0], []).append(row)
        for metric in list(self._metrics):
            yield metric.family(rows.get(metric.name, []))

    def _add(self, metric: M) -> M:
        self._metrics.append(metric)
        return metric
