"""What the connections of one port share, and what they stand on."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from libs.rpc.chain import Chain
from libs.rpc.lane.eager import StandBy
from libs.rpc.lane.limits import Limits
from libs.rpc.service import Method

if TYPE_CHECKING:
    from libs.rpc.lane.connection import Connection


class Wire(Protocol):
    """The bytes under a connection."""

    def write(self, data: bytes) -> None:
        """Send; the wire calls ``pause`` on the connection when its buffer is full."""

    def close(self) -> None:
        """Close when what was written has left."""

    def abort(self) -> None:
        """Close at once."""


@dataclass(slots=True)
class Lane:
    """What the connections of one port share.

    Attributes:
        methods: by path.
        held: request bytes in memory.
        stand_by: starts the calls.
    """

    chain: Chain
    methods: Mapping[bytes, Method]
    limits: Limits
    loop: asyncio.AbstractEventLoop
    held: int = 0
    connections: set[Connection] = field(default_factory=set)
    stand_by: StandBy = field(init=False)

    def __post_init__(self) -> None:
        self.stand_by = StandBy(self.loop)
