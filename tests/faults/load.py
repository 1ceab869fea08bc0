"""A client that never stops asking: what it got, and when."""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pyarrow as pa

from hedgerow.errors import HedgerowError
from hedgerow.ingestion.v1 import ingestion_pb2 as pb
from hedgerow.sdk import Hedgerow
from tests.support import gym as app
from tests.support.suite import RunningSuite

PAUSE_SECONDS = 0.05
PATIENCE_SECONDS = 60.0
CONTRACT = pb.Contract(
    columns=[
        pb.Column(name="reading", type=pb.Column.TYPE_INT64),
        pb.Column(name="taken", type=pb.Column.TYPE_TIMESTAMP),
    ],
    key_columns=["reading"],
    event_time_column="taken",
    purposes=[app.PURPOSE],
    legal_basis="legitimate_interests",
    retention_days=1,
    description="Numbers that a client appends while services are killed.",
)


@dataclass
class Outcomes:
    """What one kind of call got.

    Attributes:
        answered: start of each call that was answered, monotonic seconds.
        refused: start and code of each that was not.
    """

    answered: list[float] = field(default_factory=list)
    refused: list[tuple[float, str]] = field(default_factory=list)


class Load:
    """Calls of each kind, one after another, until the end. Use it inside ``keep_asking``."""

    def __init__(self, dataset: str, callers: dict[str, Hedgerow]) -> None:
        self.dataset = dataset
        self.acknowledged = 0
        ana, ben, creditapp, pia = (callers[name] for name in ("ana", "ben", "creditapp", "pia"))
        key = [app.member(20)]
        self._ana = ana
        self._calls: dict[str, Callable[[], Awaitable[object]]] = {
            "append": self._append,
            "read": lambda: creditapp.features.get_online_features(app.SERVICE, key),
            "predict": lambda: creditapp.inference.predict(app.DEPLOYMENT, key),
            "registry": lambda: ben.models.get_model_version(f"{app.MODEL}/versions/champion"),
            "policies": pia.governance.get_policy_bundle,
            "keys": lambda: pia.secrets.get_verification_keys("signingKeys/governance-policy"),
        }
        self.outcomes = {kind: Outcomes() for kind in self._calls}
        self._request_id, self._reading = "", 0

    async def _append(self) -> None:
        """Append one row; one that was not acknowledged is sent again as the same request."""
        if not self._request_id:
            self._request_id, self._reading = str(uuid.uuid4()), self._reading + 1
        now = pa.array([time.time_ns() // 1000], pa.timestamp("us", tz="UTC"))
        row = pa.table({"reading": [self._reading], "taken": now})
        answer = await self._ana.ingestion.append(self.dataset, row, request_id=self._request_id, timeout=5.0)
        self.acknowledged += answer.row_count
        self._request_id = ""

    async def ask(self, kind: str) -> None:
        """Make calls of one kind for ever."""
        outcomes = self.outcomes[kind]
        while True:
            started = time.monotonic()
            try:
                async with asyncio.timeout(10.0):
                    await self._calls[kind]()
            except HedgerowError as error:
                outcomes.refused.append((started, f"{error.code_name} {error.reason}"))
            except TimeoutError:
                outcomes.refused.append((started, "no answer"))
            else:
                outcomes.answered.append(started)
            await asyncio.sleep(PAUSE_SECONDS)

    async def first_after(self, kind: str, moment: float) -> float:
        """Wait for the answer of a call that began after a moment; return when it was seen, monotonic seconds."""
        deadline = moment + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if self.outcomes[kind].answered and self.outcomes[kind].answered[-1] > moment:
                return time.monotonic()
            await asyncio.sleep(0.01)
        raise AssertionError(f"{kind} was not answered again; it got {self.outcomes[kind].refused[-5:]}")

    def refused_since(self, kind: str, moment: float) -> set[str]:
        """Return the codes of calls that began after a moment."""
        return {code for started, code in self.outcomes[kind].refused if started > moment}


@contextlib.asynccontextmanager
async def keep_asking(suite: RunningSuite, dataset_id: str) -> AsyncIterator[Load]:
    """Yield a load whose every kind of call was answered, and end it."""
    purposes = {"ana": app.PURPOSE, "ben": app.PURPOSE, "creditapp": app.PURPOSE, "pia": ""}
    async with contextlib.AsyncExitStack() as stack:
        callers = {
            name: await stack.enter_async_context(await suite.connect(name, purpose))
            for name, purpose in purposes.items()
        }
        await callers["ana"].ingestion.create_dataset(dataset_id, CONTRACT)
        load = Load(f"datasets/{dataset_id}", callers)
        tasks = [asyncio.create_task(load.ask(kind)) for kind in load.outcomes]
        try:
            begin = time.monotonic()
            await asyncio.gather(*(load.first_after(kind, begin) for kind in load.outcomes))
            yield load
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
