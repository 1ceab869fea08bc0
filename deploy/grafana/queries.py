"""What panels ask Prometheus."""

from __future__ import annotations


def quantile(share: float, metric: str, by: str, chosen: str) -> str:
    """Return a quantile of a histogram over the time that a graph resolves."""
    return f"histogram_quantile({share}, sum by ({by}, le) (rate({metric}_bucket{{{chosen}}}[$__rate_interval])))"


def rate(metric: str, by: str, chosen: str = "") -> str:
    """Return the growth of a counter a second."""
    return f"sum by ({by}) (rate({metric}{{{chosen}}}[$__rate_interval]))"


def each(metric: str, of: str, by: str, chosen: str = "") -> str:
    """Return how much one counter grew for each that another one counted."""
    return f"{rate(metric, by, chosen)} / {rate(of, by, chosen)}"
