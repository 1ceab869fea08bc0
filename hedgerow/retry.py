"""When a call may be tried again: methods that the contract calls safe, within a bounded share of all calls."""

from __future__ import annotations

import threading

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions

MAX_TOKENS = 100.0
TOKENS_PER_SUCCESS = 0.1
# A protocol that is not ours does not say it.
_ALSO_SAFE = frozenset({"grpc.health.v1.Health.Check"})


def is_safe(method: MethodDescriptor) -> bool:
    """Return whether a repeat of the call has no further effect, which is what its ``idempotency_level`` says."""
    marked: bool = method.GetOptions().idempotency_level != MethodOptions.IDEMPOTENCY_UNKNOWN
    return marked or method.full_name in _ALSO_SAFE


class RetryBudget:
    """Bounds the retries that one server gets from this process, so that a server in trouble is left to recover.

    As gRPC's retry throttling has it (gRFC A6): a bucket of tokens, full at first; a failed attempt takes one, a call that
    succeeds gives back a tenth, and there are retries only while more than half of the bucket is left. So a short burst
    of failures is retried, and in lasting trouble at most one call in ten. Any thread may use it.
    """

    def __init__(self, max_tokens: float = MAX_TOKENS, tokens_per_success: float = TOKENS_PER_SUCCESS) -> None:
        self._max = max_tokens
        self._ratio = tokens_per_success
        self._tokens = max_tokens
        self._lock = threading.Lock()

    @property
    def tokens(self) -> float:
        """What is left in the bucket."""
        return self._tokens

    def succeeded(self) -> None:
        """Count a call that succeeded."""
        if self._tokens < self._max:
            with self._lock:
                self._tokens = min(self._max, self._tokens + self._ratio)

    def failed(self) -> bool:
        """Count an attempt that may be tried again, and return whether it shall be."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)
            return self._tokens > self._max / 2
