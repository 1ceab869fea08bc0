"""What each link of the chain costs, measured in one process on the real objects."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from google.protobuf.wrappers_pb2 import BytesValue

from libs.rpc.call import Peer
from libs.rpc.service import Audit
from tests.support.echo import Echo, echo_service
from tests.support.serving import Served, serving

CALLS = 5000


class _Transport:
    """A call whose metadata and peer are ready."""

    def __init__(self, certificate: bytes) -> None:
        self._peer = Peer(certificate, "TLSv1.3")
        self._metadata: Mapping[str, str] = {"hedgerow-request-id": "0123456789abcdef", "user-agent": "bench"}

    def peer(self) -> Peer:
        return self._peer

    def metadata(self) -> Mapping[str, str]:
        return self._metadata

    def binary_metadata(self) -> dict[str, bytes]:
        return {}

    def time_left(self) -> float:
        return 10.0


async def _each(step: Callable[[], Awaitable[object] | object], asynchronous: bool) -> float:
    begun = time.process_time()
    for _ in range(CALLS):
        if asynchronous:
            await step()  # type: ignore[misc]
        else:
            step()
    return (time.process_time() - begun) / CALLS * 1e6


async def link_costs(tmp: Path) -> dict[str, float]:
    """Return microseconds of CPU a call for each link, with the parts of `whole chain` measured one by one."""
    async with serving(tmp / "links", [echo_service(Echo())]) as served:
        return await _measure(served)


async def _measure(served: Served) -> dict[str, float]:
    chain = served.chain
    method = next(m for m in echo_service(Echo()).methods if m.path.endswith("/Echo"))
    durable = next(m for m in echo_service(Echo(), Audit.DURABLE).methods if m.path.endswith("/Echo"))
    transport = _Transport(served.authority.user("ana").chain_pem)
    raw = BytesValue(value=b"x" * 160).SerializeToString()
    request = method.decode(raw)
    state = chain._begin(method, transport)
    call = chain._admit(method, transport, state)
    served.audit.events = _Forgetful()

    async def authorise() -> None:
        state.resources, state.decision = (), None
        await chain._authorise(method, request, state)

    await authorise()

    def begin() -> None:
        chain._begin(method, transport)
        chain._end(method)

    def admit() -> None:
        chain._admit(method, transport, state)

    return {
        "request id, purpose, in flight": await _each(begin, False),
        "identity (SPIFFE, expiry, revoked)": await _each(lambda: chain._identify(transport, state), False),
        "admit (identity, deadline, rate)": await _each(admit, False),
        "decode": await _each(lambda: method.decode(raw), False),
        "describe and Cedar (cached)": await _each(authorise, True),
        "handler": await _each(lambda: method.handler(request, call), True),
        "encode": await _each(lambda: method.encode(request), False),
        "audit, buffered and folded": await _each(lambda: chain._outcomes.record(method, state, "OK"), True),
        "audit, durable (one caller)": await _each(lambda: chain._outcomes.record(durable, state, "OK"), True),
        "metrics": await _each(lambda: chain._outcomes.measure(method, state, "OK"), False),
        "all of them, unary": await _each(lambda: chain.unary(method, raw, transport), True),
    }


class _Forgetful(list):  # type: ignore[type-arg]
    """Keeps the recording writer from growing while it is timed."""

    def append(self, event: object) -> None:
        """Drop it."""
