"""Token buckets, one per principal, with a bound on how many are kept."""

from __future__ import annotations

import time

from hedgerow.errors import ResourceExhaustedError

MAX_BUCKETS = 8192


class RateLimiter:
    """Refuses a principal's calls beyond a steady rate with a burst allowance."""

    def __init__(self, per_second: float, burst: float) -> None:
        self._rate = per_second
        self._burst = burst
        # Of each principal: its tokens and when they were counted.
        self._buckets: dict[str, list[float]] = {}

    def check(self, principal: str) -> None:
        """Take one token of the principal's bucket.

        Raises:
            ResourceExhaustedError: the bucket is empty; ``retry_after`` says when it is not.
        """
        now = time.monotonic()
        bucket = self._buckets.get(principal)
        tokens = self._burst if bucket is None else bucket[0] + (now - bucket[1]) * self._rate
        if tokens > self._burst:
            tokens = self._burst
        if tokens < 1.0:
            wait = (1.0 - tokens) / self._rate
            raise ResourceExhaustedError(
                f"more than {self._rate:g} calls a second; try again in {wait:.2f} s",
                reason="RATE_LIMITED",
                retry_after=wait,
            )
        if bucket is not None:
            bucket[0], bucket[1] = tokens - 1.0, now
            return
        if len(self._buckets) >= MAX_BUCKETS:
            # Full buckets carry no state worth keeping; forget those first.
            self._buckets = {p: b for p, b in self._buckets.items() if b[0] + (now - b[1]) * self._rate < self._burst}
            if len(self._buckets) >= MAX_BUCKETS:
                self._buckets.clear()
        self._buckets[principal] = [tokens - 1.0, now]
