"""Handlers called without a transport."""

from __future__ import annotations

import time
from typing import Any

from libs.rpc import Call, Caller


def call(*, purpose: str = "credit_risk", seconds: float = 30.0) -> Call:
    """A call by the application, for a purpose, with a deadline."""
    end = time.monotonic() + seconds
    return Call(
        Caller("spiffe://hedgerow.local/user/creditapp", "user", "creditapp"),
        purpose,
        "request-1",
        {},
        lambda: end - time.monotonic(),
        lambda principal, purpose, lifetime: f"token of {principal} for {purpose}",
    )


class FakeClient:
    """Stands for another service: remembers calls, answers from a table of functions, or raises what they raise."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.calls: list[tuple[str, Any, dict[str, Any]]] = []

    async def call(self, method: str, request: Any, **options: Any) -> Any:
        self.calls.append((method, request, options))
        return self.answers[method](request)

    async def stream(self, method: str, request: Any, **options: Any) -> Any:
        self.calls.append((method, request, options))
        for message in self.answers[method](request):
            yield message
