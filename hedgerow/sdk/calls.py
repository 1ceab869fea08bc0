"""One RPC as a typed callable: messages in, messages out, with a deadline, a purpose and typed errors.

Each kind of call comes twice, for programs with an event loop and, with `Sync` before its name, for programs without.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from hedgerow.client import ServiceClient
from hedgerow.retry import is_safe
from hedgerow.sdk.facade import READ_SECONDS, WORK_SECONDS, WRITE_SECONDS
from hedgerow.sdk.portal import Portal

Request = TypeVar("Request")
Response = TypeVar("Response")
_END: Any = object()


class _Rpc:
    """What all kinds of calls share.

    Attributes:
        method: the RPC.
        timeout: seconds until the deadline where a call names none: 30 for reads, 120 for writes, 1,800 for streams.
    """

    def __init__(self, client: ServiceClient, method: MethodDescriptor, purpose: str) -> None:
        self.method = method
        self._client = client
        self._purpose = purpose
        unary = READ_SECONDS if is_safe(method) else WRITE_SECONDS
        self.timeout = WORK_SECONDS if method.server_streaming else unary

    def _context(self, timeout: float | None, purpose: str | None, request_id: str) -> dict[str, Any]:
        return {
            "timeout": self.timeout if timeout is None else timeout,
            "purpose": self._purpose if purpose is None else purpose,
            "request_id": request_id,
        }


class Unary(_Rpc, Generic[Request, Response]):
    """One request, one answer; tried again where the contract calls it safe."""

    async def __call__(
        self, request: Request, *, timeout: float | None = None, purpose: str | None = None, request_id: str = ""
    ) -> Response:
        """Makes the call; `request_id` finds it in logs and in the audit trail."""
        context = self._context(timeout, purpose, request_id)
        response: Response = await self._client.call(self.method.name, request, **context)
        return response


class ServerStream(_Rpc, Generic[Request, Response]):
    """One request, many answers; leaving the loop early cancels the call."""

    def __call__(
        self, request: Request, *, timeout: float | None = None, purpose: str | None = None, request_id: str = ""
    ) -> AsyncIterator[Response]:
        """Yields the answers."""
        return self._client.stream(self.method.name, request, **self._context(timeout, purpose, request_id))


class ClientStream(_Rpc, Generic[Request, Response]):
    """Many requests, one answer; never tried again, because the requests are gone."""

    async def __call__(
        self,
        requests: AsyncIterable[Request],
        *,
        timeout: float | None = None,
        purpose: str | None = None,
        request_id: str = "",
    ) -> Response:
        """Sends the requests and returns the answer."""
        context = self._context(timeout, purpose, request_id)
        response: Response = await self._client.send(self.method.name, requests, **context)
        return response


class _SyncRpc:
    def __init__(self, portal: Portal, rpc: Any) -> None:
        self._portal = portal
        self._rpc = rpc


class SyncUnary(_SyncRpc, Generic[Request, Response]):
    """One request, one answer; tried again where the contract calls it safe."""

    def __call__(
        self, request: Request, *, timeout: float | None = None, purpose: str | None = None, request_id: str = ""
    ) -> Response:
        """Makes the call; `request_id` finds it in logs and in the audit trail."""
        response: Response = self._portal.run(
            self._rpc(request, timeout=timeout, purpose=purpose, request_id=request_id)
        )
        return response


class SyncServerStream(_SyncRpc, Generic[Request, Response]):
    """One request, many answers; leaving the loop early cancels the call."""

    def __call__(
        self, request: Request, *, timeout: float | None = None, purpose: str | None = None, request_id: str = ""
    ) -> Iterator[Response]:
        """Yields the answers."""
        return self._portal.iterate(self._rpc(request, timeout=timeout, purpose=purpose, request_id=request_id))


class SyncClientStream(_SyncRpc, Generic[Request, Response]):
    """Many requests, one answer; never tried again, because the requests are gone."""

    def __call__(
        self,
        requests: Iterable[Request],
        *,
        timeout: float | None = None,
        purpose: str | None = None,
        request_id: str = "",
    ) -> Response:
        """Sends the requests and returns the answer."""
        response: Response = self._portal.run(
            self._rpc(_pulled(requests), timeout=timeout, purpose=purpose, request_id=request_id)
        )
        return response


async def _pulled(items: Iterable[Request]) -> AsyncIterator[Request]:
    """Yields the items of an iterable, which may block, without holding up the event loop."""
    iterator = iter(items)
    while (item := await asyncio.to_thread(next, iterator, _END)) is not _END:
        yield item


class Rpcs:
    """All RPCs of one service, by their names in snake case; a subclass declares their types."""

    service: ClassVar[ServiceDescriptor]

    def __init__(self, client: ServiceClient, purpose: str) -> None:
        for method in self.service.methods:
            setattr(self, snake_case(method.name), _kind(method)(client, method, purpose))


class SyncRpcs:
    """All RPCs of one service for programs without an event loop; a subclass declares their types."""

    def __init__(self, portal: Portal, rpcs: Rpcs) -> None:
        for method in rpcs.service.methods:
            name = snake_case(method.name)
            setattr(self, name, _SYNC[_kind(method)](portal, getattr(rpcs, name)))


_SYNC: dict[type[_Rpc], type[_SyncRpc]] = {
    Unary: SyncUnary,
    ServerStream: SyncServerStream,
    ClientStream: SyncClientStream,
}


def _kind(method: MethodDescriptor) -> type[_Rpc]:
    if method.client_streaming:
        return ClientStream
    return ServerStream if method.server_streaming else Unary


def snake_case(name: str) -> str:
    """Returns `get_dataset` for `GetDataset`."""
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
