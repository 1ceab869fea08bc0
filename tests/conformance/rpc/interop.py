"""The handlers and expectations that the clients of this suite share.

The cases are those of gRPC's interoperability test description, told with an echo service.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf.wrappers_pb2 import BytesValue

from hedgerow import errors
from libs.rpc import Call
from tests.support.echo import Echo

SERVICE = "hedgerow.testing.v1.EchoService"
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP \N{SMILING FACE WITH HORNS}\t\n"
LARGE_REQUEST, LARGE_RESPONSE = 271_828, 314_159
CODES = {
    cls.code_name: cls
    for cls in (
        errors.InvalidArgumentError,
        errors.NotFoundError,
        errors.AlreadyExistsError,
        errors.FailedPreconditionError,
        errors.PermissionDeniedError,
        errors.UnauthenticatedError,
        errors.ResourceExhaustedError,
        errors.UnavailableError,
        errors.AbortedError,
        errors.DataLossError,
        errors.CallCancelledError,
        errors.DeadlineExceededError,
        errors.UnimplementedError,
        errors.InternalError,
    )
}


def path(method: str) -> str:
    """Return the path of an RPC."""
    return f"/{SERVICE}/{method}"


def wire(value: bytes) -> bytes:
    """Return a request message."""
    return BytesValue(value=value).SerializeToString()


def value(raw: bytes) -> bytes:
    """Return what a response message holds."""
    return BytesValue.FromString(raw).value


class InteropEcho(Echo):
    """Echo whose ``Fail`` fails as told, and which remembers metadata and how its handlers ended."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata: list[dict[str, str]] = []
        self.binary: list[dict[str, bytes]] = []
        self.cancelled = 0
        self.ended = asyncio.Event()

    async def echo(self, request: Any, call: Call) -> Any:
        """Answer with as many bytes as asked for by ``size:N``, else with what came."""
        self.metadata.append(dict(call.metadata))
        self.binary.append(dict(call.binary_metadata()))
        if request.value.startswith(b"size:"):
            size = int(request.value.split(b":")[1].split(b" ")[0])
            return BytesValue(value=bytes(size))
        return request

    async def fail(self, request: Any, call: Call) -> Any:
        """Fail with the code and message of ``CODE message``."""
        code, _, message = request.value.decode().partition(" ")
        raise CODES[code](message)

    async def sleep(self, request: Any, call: Call) -> Any:
        """Sleep, and take note of being cancelled."""
        try:
            return await super().sleep(request, call)
        except asyncio.CancelledError:
            self.cancelled += 1
            self.ended.set()
            raise

    async def both(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        """Answer each with as many bytes as its number says, and take note of the end, whatever it is."""
        try:
            async for request in requests:
                yield BytesValue(value=bytes(int(request.value or b"0")))
        finally:
            self.ended.set()
