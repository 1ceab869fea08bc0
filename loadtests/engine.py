"""Makes calls on one event loop: users who call, wait and call again, or arrivals at a rate that waits for nobody."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from hedgerow.errors import HedgerowError, UnavailableError
from loadtests.ledger import Result

PAUSE_SECONDS = 0.1
MAX_PAUSE_SECONDS = 1.0
LAG_SECONDS = 0.02
# A generator that has this many calls open is itself the queue.
MAX_OPEN = 20_000

Sizes = tuple[int, int]
Send = Callable[[float], Awaitable[Sizes]]
Record = Callable[[Result], None]


@dataclass(frozen=True)
class Operation:
    """One kind of call.

    Attributes:
        service: whose budget it counts against.
        name: for people.
        prepare: makes the request and returns what sends it within the given seconds, again when need be, and returns bytes
            sent and received; raises typed errors.
        deadline: seconds over all attempts.
        refusal: the code that must come back instead of an answer; empty for an answer.
        retry: whether a call that found its service away is sent again until the deadline; only where a repeat is safe.
    """

    service: str
    name: str
    prepare: Callable[[], Send]
    deadline: float = 15.0
    refusal: str = ""
    retry: bool = True

    async def run(self) -> Result:
        """Make the call and say what became of it; what goes wrong on this side counts as a failure of the call too."""
        wall, begin = time.time(), time.monotonic()
        sizes, error, attempts = (0, 0), "", 1
        try:
            send = self.prepare()
            wall, begin = time.time(), time.monotonic()
            sizes, error, attempts = await self._answer(send, begin + self.deadline)
        except asyncio.CancelledError as failure:
            # gRPC raises it for a call that it gave up, too; then nobody has cancelled the user.
            if _is_cancelled():
                raise
            error = _of_client(failure)
        except Exception as failure:  # a fault here must not take a user away unseen
            error = _of_client(failure)
        return Result(self.service, self.name, wall, time.monotonic() - begin, *sizes, error, attempts)

    async def _answer(self, send: Send, end: float) -> tuple[Sizes, str, int]:
        """Return sizes, error and number of attempts until there was an answer, or no time for another attempt."""
        attempts = 0
        while True:
            attempts += 1
            try:
                sizes = await send(max(end - time.monotonic(), 0.001))
            except HedgerowError as failure:
                error = "" if failure.code_name == self.refusal else f"{failure.code_name} {failure.reason}"
                pause = min(PAUSE_SECONDS * 2 ** (attempts - 1), MAX_PAUSE_SECONDS)
                again = error and self.retry and isinstance(failure, UnavailableError)
                if not again or time.monotonic() + pause >= end:
                    return (0, 0), error, attempts
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            else:
                return sizes, f"OK instead of {self.refusal}" if self.refusal else "", attempts


def _of_client(failure: BaseException) -> str:
    return f"CLIENT {type(failure).__name__}"


def _is_cancelled() -> bool:
    """Whether someone wants the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@dataclass(frozen=True)
class UserKind:
    """What users of one kind do: an operation by chance, then a pause of ``think`` seconds on average."""

    operations: Sequence[Operation]
    think: float


class Engine:
    """Users of several kinds, started and stopped one by one."""

    def __init__(self, kinds: Mapping[str, UserKind], record: Record) -> None:
        self._kinds = kinds
        self._record = record
        self._users: dict[str, list[asyncio.Task[None]]] = {kind: [] for kind in kinds}
        self.in_flight = self.most_in_flight = 0

    @property
    def users(self) -> int:
        """How many users there are."""
        return sum(len(users) for users in self._users.values())

    def start(self, kind: str) -> None:
        """Add a user."""
        self._users[kind].append(asyncio.create_task(self._live(self._kinds[kind])))

    def stop(self, kind: str) -> None:
        """Take a user away; a call in progress is cancelled and does not count."""
        if self._users[kind]:
            self._users[kind].pop().cancel()

    async def close(self) -> None:
        """Take all users away; raises what one of them ended with before."""
        tasks = [task for users in self._users.values() for task in users]
        for task in tasks:
            task.cancel()
        for end in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(end, Exception):
                raise end

    async def _live(self, kind: UserKind) -> None:
        while True:
            operation = random.choice(kind.operations)  # noqa: S311 - a mix, not a secret
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
            try:
                result = await operation.run()
            finally:
                self.in_flight -= 1
            if _is_cancelled():
                return  # the call made an error of it
            self._record(result)
            await asyncio.sleep(random.expovariate(1.0 / kind.think) if kind.think else 0)


async def arrive(operation: Operation, rate: float, seconds: float, record: Record, seed: int = 1) -> int:
    """Send calls at random times, ``rate`` a second on average, whether or not earlier ones were answered.

    Returns how many were not sent because the generator had too many open. Latency counts from the time that a call was
    due, so a late generator does not flatter the server.
    """
    chance = random.Random(seed)  # noqa: S311 - arrival times
    open_calls: set[asyncio.Task[None]] = set()
    unsent, due, begin = 0, 0.0, time.monotonic()

    async def one(late: float) -> None:
        result = await operation.run()
        record(
            Result(
                result.service, result.name, result.begin - late, result.seconds + late,
                result.sent, result.received, result.error, result.attempts,
            )
        )  # fmt: skip

    while (due := due + chance.expovariate(rate)) < seconds:
        wait = begin + due - time.monotonic()
        if wait > 0:
            await asyncio.sleep(wait)
        if len(open_calls) >= MAX_OPEN:
            unsent += 1
            continue
        task = asyncio.create_task(one(max(0.0, time.monotonic() - begin - due)))
        open_calls.add(task)
        task.add_done_callback(open_calls.discard)
    await asyncio.gather(*open_calls)
    return unsent


class Watch:
    """How the generator itself does: its CPU time and how late its event loop runs."""

    def __init__(self) -> None:
        self._lags: list[float] = []
        self._cpu, self._time = time.process_time(), time.monotonic()

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            begin = time.monotonic()
            await asyncio.sleep(LAG_SECONDS)
            self._lags.append(max(0.0, time.monotonic() - begin - LAG_SECONDS))

    def take(self) -> tuple[float, float, list[float]]:
        """Return CPU seconds, seconds and lags since the last time."""
        cpu, now = time.process_time(), time.monotonic()
        taken = cpu - self._cpu, now - self._time, self._lags
        self._cpu, self._time, self._lags = cpu, now, []
        return taken
