"""How a service registers its handlers: once, for every transport."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import message_factory
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor

from libs.authz import Resource, ResourceAttributes
from libs.authz.resource import NO_ATTRIBUTES
from libs.rpc.call import Caller

MIB = 1024 * 1024


class Audit(enum.Enum):
    """When a call's audit event must be on disk."""

    DURABLE = "durable"
    """Before the answer leaves: for personal data, secrets, and every change."""
    BUFFERED = "buffered"
    """Soon after: for predictions and other hot reads; like calls are folded into one event."""
    NONE = "none"
    """Not audited when permitted: health, watches of state, and what ships the trail. A denial always is."""


@dataclass(frozen=True)
class Access:
    """What the chain must know of one RPC.

    Attributes:
        resources: the resources a request names; for a stream it is asked of each message, and a later message that
            names none returns an empty sequence.
        audit: when the audit event must be on disk.
        creates: whether the first resource is the one that the call makes, which need not exist yet.
        granted: whether a request carries a valid grant of the resource's owner.
        deadline_required: False only for the standard protocols, whose clients send none.
        always_open: whether it is answered under any load and to the end of a drain: only for health, so that probes are
            told the truth. It takes no place of ``max_calls``, and nothing waits for its end.
        max_message_bytes: the largest request message.
    """

    resources: Callable[[Any], Sequence[Resource]]
    audit: Audit = Audit.DURABLE
    granted: Callable[[Any, Caller], Awaitable[bool]] | None = None
    creates: bool = False
    deadline_required: bool = True
    always_open: bool = False
    max_message_bytes: int = 4 * MIB


@dataclass(frozen=True)
class Method:
    """One registered RPC.

    Attributes:
        path: ``/package.Service/Method``.
        action: its Cedar action, ``<area>.<Method>``.
        decode: bytes to request message.
        encode: response message to bytes.
        handler: the bound method of the servicer.
        is_unary: one message each way.
        is_watch: whether it streams states for as long as the caller listens.
        takes_place: whether it counts towards ``max_calls``. Watches, one for each client, stay for hours and cost
            nothing.
    """

    path: str
    action: str
    decode: Callable[[bytes], Any]
    encode: Callable[[Any], bytes]
    handler: Callable[..., Any]
    access: Access
    describe: Callable[[Resource], Awaitable[ResourceAttributes]]
    client_streaming: bool
    server_streaming: bool
    is_unary: bool = field(init=False)
    is_watch: bool = field(init=False)
    takes_place: bool = field(init=False)

    def __post_init__(self) -> None:
        watches = self.server_streaming and self.path.rpartition("/")[2].startswith("Watch")
        object.__setattr__(self, "is_unary", not (self.client_streaming or self.server_streaming))
        object.__setattr__(self, "is_watch", watches)
        object.__setattr__(self, "takes_place", not (watches or self.access.always_open))


async def describe_nothing(resource: Resource) -> ResourceAttributes:
    """Return no attributes, for services whose resources have none."""
    return NO_ATTRIBUTES


class Service:
    """A gRPC service with its handlers and what each RPC needs of the chain."""

    def __init__(
        self,
        descriptor: ServiceDescriptor,
        servicer: object,
        *,
        area: str,
        access: Mapping[str, Access],
        describe: Callable[[Resource], Awaitable[ResourceAttributes]] = describe_nothing,
    ) -> None:
        """Register every method of the descriptor.

        Args:
            descriptor: from the generated module.
            servicer: has one handler per RPC, named in snake_case.
            area: first part of the Cedar actions.
            access: one entry per RPC.
            describe: the attributes of a resource; raises NotFoundError for one that does not exist, and the call then
                ends with it, unless policy refuses the call first or the call is to make that resource.

        Raises:
            ValueError: an RPC has no Access or no handler, or an Access names no RPC.
        """
        names = {method.name for method in descriptor.methods}
        if names != set(access):
            raise ValueError(f"{descriptor.full_name}: access and RPCs differ: {sorted(names ^ set(access))}")
        self.name = descriptor.full_name
        self.methods = [_method(m, servicer, area, access[m.name], describe) for m in descriptor.methods]


def _method(
    descriptor: MethodDescriptor,
    servicer: object,
    area: str,
    access: Access,
    describe: Callable[[Resource], Awaitable[ResourceAttributes]],
) -> Method:
    handler = getattr(servicer, snake_case(descriptor.name), None)
    if handler is None:
        raise ValueError(f"{type(servicer).__name__} has no handler for {descriptor.full_name}")
    request = message_factory.GetMessageClass(descriptor.input_type)
    response = message_factory.GetMessageClass(descriptor.output_type)
    return Method(
        path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        action=f"{area}.{descriptor.name}",
        decode=request.FromString,
        encode=response.SerializeToString,
        handler=handler,
        access=access,
        describe=describe,
        client_streaming=descriptor.client_streaming,
        server_streaming=descriptor.server_streaming,
    )


def snake_case(name: str) -> str:
    """Return ``get_dataset`` for ``GetDataset``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
