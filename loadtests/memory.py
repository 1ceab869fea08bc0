"""Whether memory stays flat."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

Sample = tuple[float, Mapping[str, float]]


def growth_percent(samples: Sequence[Sample]) -> float:
    """Return by how much the suite's memory grew from the second to the last fifth of a run, in percent of the former.

    The first fifth is left out: caches fill and allocators settle. The medians of both are compared.

    Args:
        samples: time and MiB by service; at least five.

    Raises:
        ValueError: there are fewer.
    """
    if len(samples) < 5:
        raise ValueError(f"flat memory takes at least 5 samples to see, and there are {len(samples)}")
    totals = [sum(used.values()) for _, used in sorted(samples, key=lambda sample: sample[0])]
    fifth = len(totals) // 5
    early = statistics.median(totals[fifth : 2 * fifth])
    late = statistics.median(totals[-fifth:])
    return 100.0 * (late - early) / early
