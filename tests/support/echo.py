"""An echo service in all four kinds, for tests and benchmarks of what lies around handlers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, wrappers_pb2
from google.protobuf.descriptor import ServiceDescriptor

from hedgerow.errors import FailedPreconditionError
from libs.authz import Resource, ResourceAttributes
from libs.rpc import Access, Audit, Call, Service

ATTRIBUTES = ResourceAttributes()


def _descriptor() -> ServiceDescriptor:
    pool = descriptor_pool.Default()
    name = "hedgerow/testing/v1/echo.proto"
    try:
        return pool.FindServiceByName("hedgerow.testing.v1.EchoService")
    except KeyError:
        file = descriptor_pb2.FileDescriptorProto(name=name, package="hedgerow.testing.v1", syntax="proto3")
        file.dependency.append("google/protobuf/wrappers.proto")
        service = file.service.add(name="EchoService")
        kinds = {"Echo": (0, 0), "Sleep": (0, 0), "Fail": (0, 0), "Down": (0, 1), "Up": (1, 0), "Both": (1, 1)}
        for method, (client, server) in kinds.items():
            service.method.add(
                name=method,
                input_type=".google.protobuf.BytesValue",
                output_type=".google.protobuf.BytesValue",
                client_streaming=bool(client),
                server_streaming=bool(server),
            )
        assert wrappers_pb2.DESCRIPTOR
        pool.Add(file)
        return pool.FindServiceByName("hedgerow.testing.v1.EchoService")


DESCRIPTOR = _descriptor()


class Echo:
    """Answers with what it got; ``Sleep`` and ``Fail`` read a number of milliseconds."""

    def __init__(self) -> None:
        self.cleaned_up = 0
        self.calls: list[Call] = []

    async def echo(self, request: Any, call: Call) -> Any:
        """Answer at once."""
        return request

    async def sleep(self, request: Any, call: Call) -> Any:
        """Answer after a while."""
        self.calls.append(call)
        await asyncio.sleep(int(request.value or b"0") / 1000)
        return request

    async def fail(self, request: Any, call: Call) -> Any:
        """Fail after a while, with a clean-up that must run."""
        try:
            if request.value == b"bug":
                raise ZeroDivisionError("secret detail")
            await asyncio.sleep(int(request.value or b"0") / 1000)
            raise FailedPreconditionError("not in this state", metadata={"state": "asleep"})
        finally:
            self.cleaned_up += 1

    async def down(self, request: Any, call: Call) -> AsyncIterator[Any]:
        """Answer ten times, a pause between."""
        for _ in range(10):
            yield request
            await asyncio.sleep(int(request.value or b"0") / 1000)

    async def up(self, requests: AsyncIterator[Any], call: Call) -> Any:
        """Answer with everything joined."""
        return wrappers_pb2.BytesValue(value=b"".join([request.value async for request in requests]))

    async def both(self, requests: AsyncIterator[Any], call: Call) -> AsyncIterator[Any]:
        """Answer each."""
        async for request in requests:
            yield request


async def describe(resource: Resource) -> ResourceAttributes:
    """Return nothing special."""
    return ATTRIBUTES


def echo_service(servicer: Echo, audit: Audit = Audit.BUFFERED, *, area: str = "ingestion") -> Service:
    """Return the registered echo service.

    It borrows the action ``ingestion.GetDataset`` of the real schema: each method asks for that one.
    """
    dataset = [Resource("Dataset", "datasets/echo")]
    access = {method.name: Access(lambda request: dataset, audit) for method in DESCRIPTOR.methods}
    service = Service(DESCRIPTOR, servicer, area=area, access=access, describe=describe)
    from dataclasses import replace

    service.methods = [replace(method, action="ingestion.GetDataset") for method in service.methods]
    return service
