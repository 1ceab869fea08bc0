"""One load on one target from a process of its own: ``python -m benchmarks.suite.probe TARGET MODE VALUE SECONDS``.

``closed N`` keeps N callers busy; ``open R`` sends R calls a second whether or not they are answered. Writes one line of
JSON. The suite is the one in the folder that ``HEDGEROW_LOAD_FOLDER`` names.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.suite.wire import WireChannel
from examples.credit.run import CREDIT_RISK
from hedgerow.channel import RotatingChannel
from hedgerow.sdk.context import Context
from loadtests.engine import Engine, Operation, UserKind, Watch, arrive
from loadtests.ledger import Ledger
from loadtests.scenario import FOLDER, Callers, append, online, predict

# An answer that comes later is worth nothing to whoever waits for it.
DEADLINE_SECONDS = {"predictions": 1.0, "features": 1.0, "ingest": 5.0}
LIGHT = ("predictions", "features")
WARM_SECONDS, REPLICA_WARM_CALLS = 1.0, 4
# How many replicas of the service the calls go to; all of them by default.
REPLICAS = "HEDGEROW_BENCH_REPLICAS"


def operation(callers: Callers, target: str) -> Operation:
    """Return the call of a target: with a deadline, and never sent twice, so that offered load is what was offered."""
    deadline = DEADLINE_SECONDS[target]
    if target == "predictions":
        return predict(callers, "creditapp", CREDIT_RISK, deadline=deadline, retry=False)
    if target == "features":
        return online(callers, "creditapp", CREDIT_RISK, deadline=deadline, retry=False)
    return append(callers, deadline=deadline, retry=False)


async def probe(target: str, mode: str, value: float, seconds: float) -> dict[str, Any]:
    """Put the load on and return what came of it."""
    async with contextlib.AsyncExitStack() as stack:
        replicas = int(os.environ[REPLICAS]) if REPLICAS in os.environ else None
        # Streams and several addresses are beyond the light channel.
        light = target in LIGHT and replicas is None
        channel = WireChannel if light else RotatingChannel
        callers = Callers(Context.load(Path(os.environ[FOLDER])), stack, replicas=replicas, channel=channel)
        call = operation(callers, target)
        for _ in range(REPLICA_WARM_CALLS):
            await call.run()  # the connections are up
        ledger, watch = Ledger(), Watch()
        watching = asyncio.create_task(watch.run())
        begin, unsent = time.monotonic(), 0
        if mode == "closed":
            await _closed(call, int(value), ledger, seconds)
        else:
            unsent = await arrive(call, value, seconds, ledger.add)
        took = min(time.monotonic() - begin, seconds) if mode == "open" else seconds
        watching.cancel()
        ledger.add_generator("probe", *watch.take())
    return {"ledger": ledger.to_json(), "seconds": took, "unsent": unsent}


async def _closed(call: Operation, callers: int, ledger: Ledger, seconds: float) -> None:
    counting = False
    engine = Engine({"all": UserKind([call], 0.0)}, lambda result: ledger.add(result) if counting else None)
    for _ in range(callers):
        engine.start("all")
    await asyncio.sleep(WARM_SECONDS)
    counting = True
    await asyncio.sleep(seconds)
    counting = False
    await engine.close()


def main() -> None:
    """Run one probe."""
    target, mode, value, seconds = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(probe(target, mode, float(value), float(seconds)))), flush=True)


if __name__ == "__main__":
    main()
