"""Throughput against offered load for one target, as probes found it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.suite.probe import DEADLINE_SECONDS, REPLICAS
from loadtests.ledger import Ledger, Tally
from loadtests.scenario import FOLDER
from loadtests.verdict import bottlenecks, load_budgets

SHARES = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
CALLERS, REPLICA_CALLERS = 32, 64
ROWS_PER_CALL = {"predictions": 8, "features": 8, "ingest": 200}


@dataclass(frozen=True)
class Point:
    """What came of one load.

    Attributes:
        offered: calls a second that were due.
        goodput: right answers a second within the deadline, counted from when the call was due.
        p50_ms, p99_ms: of those answered.
        failed: calls without a right answer.
        unsent: calls that the generator could not send.
        generator_cores: what the generator used.
        generator_lag_ms: how late its event loop ran (p99); a late generator's point says little of the server.
        errors: what failed, by code.
        void: why the generator and not the server was measured, or nothing.
    """

    offered: float
    goodput: float
    p50_ms: float
    p99_ms: float
    failed: int
    unsent: int
    generator_cores: float
    generator_lag_ms: float
    errors: dict[str, int]
    void: Sequence[str]


@dataclass(frozen=True)
class Sweep:
    """All points of a target, by offered load, and the one that 32 busy callers got out of it."""

    target: str
    busy: Point
    points: list[Point]

    @property
    def saturation(self) -> float:
        """Calls a second of the busy callers."""
        return self.busy.goodput

    @property
    def peak(self) -> Point:
        """The point with the best goodput."""
        return max(self.points, key=lambda point: point.goodput)

    @property
    def at_twice(self) -> Point:
        """The point with the highest load, twice the saturation."""
        return max(self.points, key=lambda point: point.offered)

    @property
    def ratio(self) -> float:
        """Goodput at twice the saturation load over the peak."""
        return self.at_twice.goodput / self.peak.goodput if self.peak.goodput else 0.0


def point(target: str, mode: str, value: float, found: dict[str, object]) -> Point:
    """Return a probe's figures; ``found`` is what it printed.

    Raises:
        RuntimeError: the probe did not tell how it did itself.
    """
    ledger = Ledger.from_json(found["ledger"])  # type: ignore[arg-type]
    seconds, unsent = float(str(found["seconds"])), int(str(found["unsent"]))
    if not ledger.lag.count:
        raise RuntimeError(f"the probe of {target} did not tell how it did itself")
    void = bottlenecks(ledger, load_budgets())
    if unsent:
        void.append(f"{unsent} calls were not sent: too many were open")
    [tally] = ledger.services.values() or [Tally()]
    good = tally.latencies.within(DEADLINE_SECONDS[target])
    return Point(
        offered=value if mode == "open" else good / seconds,
        goodput=good / seconds,
        p50_ms=tally.latencies.percentile_ms(0.5),
        p99_ms=tally.latencies.percentile_ms(0.99),
        failed=tally.calls - good,
        unsent=unsent,
        generator_cores=ledger.busiest(),
        generator_lag_ms=ledger.lag.percentile_ms(0.99),
        errors=ledger.errors,
        void=void,
    )


async def measure(
    folder: Path, target: str, mode: str, value: float, seconds: float, *, replicas: int | None = None
) -> Point:
    """Run one probe in a process of its own and return its point.

    Raises:
        RuntimeError: the probe failed.
    """
    environment = {**os.environ, FOLDER: str(folder), "PYTHONPATH": "."}
    if replicas is not None:
        environment[REPLICAS] = str(replicas)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.suite.probe", target, mode, str(value), str(seconds),
        stdout=asyncio.subprocess.PIPE, env=environment, limit=2**26,
    )  # fmt: skip
    try:
        output, _ = await asyncio.wait_for(process.communicate(), seconds + 90)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the probe of {target} ended with exit code {process.returncode}")
    return point(target, mode, value, json.loads(output))


async def sweep(folder: Path, target: str, seconds: float) -> Sweep:
    """Find the saturation of a target and offer shares of it up to twice as much."""
    busy = await measure(folder, target, "closed", CALLERS, seconds)
    points = []
    for share in SHARES:
        points.append(await measure(folder, target, "open", max(1.0, busy.goodput * share), seconds))
        print(
            f"{target:12} offered {points[-1].offered:8,.0f}/s  goodput {points[-1].goodput:8,.0f}/s  "
            f"p99 {points[-1].p99_ms:8,.0f} ms",
            flush=True,
        )
    return Sweep(target, busy, points)


async def replicas(folder: Path, target: str, seconds: float) -> dict[str, Point]:
    """Return what busy callers get out of a target with one replica of its service and with two, on the same suite."""
    found = {}
    for count in (1, 2):
        found[str(count)] = await measure(folder, target, "closed", REPLICA_CALLERS, seconds, replicas=count)
        print(f"{target:12} with {count} of its replicas: {found[str(count)].goodput:8,.0f}/s", flush=True)
    return found
