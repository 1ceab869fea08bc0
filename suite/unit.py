"""What the supervisor must know of one program it keeps running."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path


class UnitError(Exception):
    """The program cannot be started, or what runs is of no use; the message says why, for an operator."""


async def nothing(attempt: int) -> None:
    """Prepare nothing."""


@dataclass(frozen=True)
class Unit:
    """One program.

    Attributes:
        name: of the program; that of a service, or of one replica of it.
        command: what to run.
        environment: its whole environment, less the marks that the supervisor adds.
        healthy: whether it serves; may raise UnitError when what runs can never serve.
        log: its log file.
        after: the units that must have served before its first start.
        tier: units of a higher tier are stopped first.
        prepare: called before each start with the number of the attempt, from 1; may raise UnitError.
        upkeep: called now and then with the pid while it runs; blocks shortly.
        folder: where it runs, made by ``prepare``; where the supervisor does by default.
        ports: by use, for people.
        start_seconds: how long a start may take.
        stop_seconds: how long a stop may take before it is killed.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    healthy: Callable[[], Awaitable[bool]]
    log: Path
    after: Sequence[str] = ()
    tier: int = 0
    prepare: Callable[[int], Awaitable[None]] = nothing
    upkeep: Callable[[int], None] | None = None
    folder: Path | None = None
    ports: Mapping[str, int] = field(default_factory=dict)
    start_seconds: float = 60.0
    stop_seconds: float = 25.0
