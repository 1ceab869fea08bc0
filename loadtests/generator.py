"""The process that makes the calls: ``python -m loadtests.generator``. Plain asyncio, no gevent (ADR 0014).

Reads a command a line on standard input, ``start KIND`` or ``stop KIND``; the end of the input ends it. Writes a line of
JSON at each interval: the results since the last one, and how the generator itself does.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager

import uvloop

from loadtests.engine import Engine, UserKind, Watch
from loadtests.ledger import Result

SCENARIO = "HEDGEROW_LOAD_SCENARIO"
INTERVAL_SECONDS = 0.5

Scenario = Callable[[], AbstractAsyncContextManager[Mapping[str, UserKind]]]


def scenario() -> Scenario:
    """Return what ``HEDGEROW_LOAD_SCENARIO`` names, as ``module:function``."""
    module, _, name = os.environ.get(SCENARIO, "loadtests.scenario:open_scenario").partition(":")
    found: Scenario = getattr(importlib.import_module(module), name)
    return found


async def generate() -> None:
    """Obey until the input ends."""
    results: list[Result] = []
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with scenario()() as kinds:
        engine, watch = Engine(kinds, results.append), Watch()
        tasks = [asyncio.create_task(watch.run()), asyncio.create_task(_report(engine, watch, results))]
        print(json.dumps({"ready": sorted(kinds)}), flush=True)
        try:
            while line := await commands.readline():
                command, _, kind = line.decode().strip().partition(" ")
                (engine.start if command == "start" else engine.stop)(kind)
        finally:
            await engine.close()
            for task in tasks:
                task.cancel()
            _write(engine, watch, results)


async def _report(engine: Engine, watch: Watch, results: list[Result]) -> None:
    while True:
        await asyncio.sleep(INTERVAL_SECONDS)
        _write(engine, watch, results)


def _write(engine: Engine, watch: Watch, results: list[Result]) -> None:
    cpu, seconds, lags = watch.take()
    taken = [
        [each.service, each.name, each.begin, each.seconds, each.sent, each.received, each.error, each.attempts]
        for each in results
    ]
    results.clear()
    line = {
        "results": taken, "cpu": cpu, "seconds": seconds, "lags": lags, "users": engine.users,
        "most_in_flight": engine.most_in_flight,
    }  # fmt: skip
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(generate())
