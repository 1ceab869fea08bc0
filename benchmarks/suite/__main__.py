"""``make bench-suite``: predictions, online features and ingest up to and beyond saturation, a soak, and start-up times.

Arrivals are open: they do not wait for answers, so a server that slows down is not offered less. ``SECONDS`` shortens
the soak and the sweeps for a try. The generator shares the machine with the suite; what it used stands beside each point.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import Check, write
from benchmarks.suite.probe import DEADLINE_SECONDS
from benchmarks.suite.sweep import ROWS_PER_CALL, Sweep, replicas, sweep
from hedgerow.errors import HedgerowError
from loadtests import memory, page
from loadtests.drive import Plan, drive
from loadtests.local_run import LoadError, LocalRun
from loadtests.page import Line
from loadtests.scenario import FOLDER
from loadtests.verdict import failures, failures_between, headroom_percent

TARGETS = ("predictions", "features", "ingest")
POINT_SECONDS = 15.0
SOAK_SECONDS = 600.0
DISTURBED_SECONDS = 60.0
SOAK_USERS = 14
SAMPLE_SECONDS = 2.0
CALL_SECONDS = 15.0
LEAST_RATIO = 0.9
# A generator that runs later than this has measured itself.
MOST_LAG_MS = 250.0
# A suite that starts from nothing: its keys, its policies, its databases.
MOST_START_SECONDS = 60.0


@dataclass(frozen=True)
class Steady:
    """What a run with users over some time found."""

    samples: Sequence[memory.Sample]
    failed: int
    failed_disturbed: int
    back_seconds: float
    headroom: float


async def steady(local: LocalRun, seconds: float, *, disturb: bool) -> Steady:
    """Let users of all kinds work for a while; with certificates replaced and a service killed in between, or in peace."""
    samples: list[memory.Sample] = []
    windows: list[tuple[float, float]] = []
    back = 0.0

    async def sample() -> None:
        while True:
            samples.append((time.time(), await asyncio.to_thread(local.memory_mib)))
            await asyncio.sleep(SAMPLE_SECONDS)

    async def trouble() -> None:
        nonlocal back
        await asyncio.sleep(seconds * 0.4)
        begin = time.time()
        await local.rotate(await local.context())
        back = await local.kill("inference")
        windows.append((begin, time.time()))

    tasks = [asyncio.create_task(sample())]
    troubling = asyncio.create_task(trouble()) if disturb else None
    try:
        plan = Plan("soak", seconds, SOAK_USERS, 1, {FOLDER: str(local.folder)})
        ledger, _ = await drive(plan)
        if troubling is not None:
            await troubling
    finally:
        for task in (*tasks, *([troubling] if troubling else [])):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    disturbed = failures_between(ledger, windows, CALL_SECONDS)
    return Steady(samples, failures(ledger), disturbed, back, headroom_percent(ledger))


async def run(options: argparse.Namespace) -> int:
    """Measure everything and write it."""
    local = LocalRun(options.dir.resolve(), options.port_base)
    async with local.running():
        if not local.started_here:
            raise LoadError(f"a suite is running in {local.folder}; the start is measured too, so stop it first")
        print(f"started in {local.start_seconds:.1f} s", flush=True)
        await local.prepare(await local.context())
        sweeps = [await sweep(local.folder, target, options.point_seconds) for target in TARGETS]
        calm = await steady(local, options.soak_seconds, disturb=False)
        disturbed = await steady(local, min(DISTURBED_SECONDS, options.soak_seconds), disturb=True)
    scaled: dict[str, dict[str, float]] = {}
    try:
        scaled = await replicated(options)
    except LoadError as error:
        # What was measured so far is worth keeping.
        print(f"replicas were not measured: {error}", file=sys.stderr)
    checks = figures(local, sweeps, calm, disturbed)
    details = {
        "sweeps": {
            each.target: {
                "saturation_per_s": each.saturation,
                "rows_per_call": ROWS_PER_CALL[each.target],
                "deadline_s": DEADLINE_SECONDS[each.target],
                "points": [asdict(point) for point in each.points],
            }
            for each in sweeps
        },
        "start_seconds": local.services_seconds,
        "soak": {
            "seconds": options.soak_seconds,
            "users": SOAK_USERS,
            "generator_headroom_percent": calm.headroom,
            "rss_mib": calm.samples[-1][1],
            "growth_percent_by_service": growth_by_service(calm.samples),
        },
        "replicas": scaled,
        "kill_back_seconds": disturbed.back_seconds,
    }
    path = write("suite", checks, details)
    path.with_suffix(".html").write_text(render(checks, sweeps, local, calm, scaled), encoding="utf-8")
    print(f"wrote {path.with_suffix('.html')}")
    return 0


async def replicated(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Return what one replica and two of them do, on the distributed profile, where services have replicas."""
    local = LocalRun(options.dir.resolve().with_name("distributed"), options.port_base, profile="distributed")
    async with local.running():
        await local.prepare(await local.context())
        return {
            target: await replicas(local.folder, target, options.point_seconds)
            for target in ("predictions", "features")
        }


def figures(local: LocalRun, sweeps: Sequence[Sweep], calm: Steady, disturbed: Steady) -> list[Check]:
    """Return the checks."""
    checks = [Check("goodput_at_2x_ratio", min(each.ratio for each in sweeps), "ratio", ">=", LEAST_RATIO)]
    checks += [Check(f"goodput_at_2x_ratio_{s.target}", s.ratio, "ratio", ">=", LEAST_RATIO) for s in sweeps]
    return [
        *checks,
        Check("soak_rss_growth_percent", memory.growth_percent(calm.samples), "%", "<=", 5.0),
        Check("generator_lag_ms", max(p.generator_lag_ms for s in sweeps for p in s.points), "ms", "<=", MOST_LAG_MS),
        Check("suite_start_seconds", local.start_seconds, "s", "<=", MOST_START_SECONDS),
        Check("load_failures", calm.failed, "calls", "==", 0),
        Check("load_failures_during_kill_and_rotation", disturbed.failed_disturbed, "calls", "==", 0),
    ]


def growth_by_service(samples: Sequence[memory.Sample]) -> dict[str, float]:
    """Return the growth of each service that was there all the time."""
    names = set.intersection(*(set(used) for _, used in samples))
    return {name: memory.growth_percent([(at, {name: used[name]}) for at, used in samples]) for name in sorted(names)}


def render(
    checks: Sequence[Check],
    sweeps: Sequence[Sweep],
    local: LocalRun,
    calm: Steady,
    scaled: Mapping[str, Mapping[str, float]],
) -> str:
    """Return the page."""
    parts = [page.check_table(checks)]
    for each in sweeps:
        points = sorted(each.points, key=lambda point: point.offered)
        bound = points[-1].offered
        answered = Line("answered in time, calls a second", [(point.offered, point.goodput) for point in points])
        ideal = Line("offered", [(0.0, 0.0), (bound, bound)])
        parts.append(page.chart(f"{each.target}: goodput", "offered, calls a second", "", [answered, ideal]))
        late = Line("p99, ms", [(point.offered, point.p99_ms) for point in points])
        limit = DEADLINE_SECONDS[each.target] * 1000
        parts.append(page.chart(f"{each.target}: p99", "offered, calls a second", "", [late], limit=limit))
    begin = calm.samples[0][0]
    lines = [Line(n, [(at - begin, used[n]) for at, used in calm.samples if n in used]) for n in calm.samples[-1][1]]
    parts.append(page.chart("Resident memory in the soak, MiB", "seconds", "", lines))
    parts += [
        page.heading("Replicas", "Calls a second by 64 busy callers, all on the cores of one machine."),
        page.table(("target", "1 replica", "2 replicas"), [(t, each["1"], each["2"]) for t, each in scaled.items()]),
        page.heading("Start", "Seconds from the start of each process until it served; services wait for one another."),
        page.table(("service", "seconds"), sorted(local.services_seconds.items())),
    ]
    lead = "Open-loop arrivals from a process on the same machine; goodput counts right answers within the deadline."
    return page.page("The suite under load", lead, parts)


def main() -> int:
    """Read the arguments and run; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=Path("var/bench/suite"), help="folder of the suite")
    parser.add_argument("--port-base", type=int, default=8600, help="lowest port of the suite")
    parser.add_argument("--point-seconds", type=float, default=POINT_SECONDS, help="length of each point of a sweep")
    parser.add_argument("--soak-seconds", type=float, default=SOAK_SECONDS, help="length of the soak")
    options = parser.parse_args()
    try:
        return asyncio.run(run(options))
    except (LoadError, RuntimeError, HedgerowError) as error:
        print(f"the benchmark did not run: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
