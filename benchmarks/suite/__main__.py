"""``make bench-suite``: predictions, online features and ingest up to and beyond saturation, a soak, and start-up times.

Arrivals are open: they do not wait for answers, so a server that slows down is not offered less. ``SECONDS`` shortens
the soak and the sweeps for a try. The generator shares the machine with the suite; what it used stands beside each point.
Exits 0 when there are figures, 3 when they are void because a generator was the bottleneck, and 2 when there are none.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.report import Check, write
from benchmarks.suite.probe import DEADLINE_SECONDS
from benchmarks.suite.sweep import ROWS_PER_CALL, Point, Sweep, replicas, sweep
from hedgerow.errors import HedgerowError
from loadtests import memory, page
from loadtests.drive import Plan, drive
from loadtests.local_run import LoadError, LocalRun
from loadtests.page import Line
from loadtests.scenario import FOLDER
from loadtests.verdict import Outcome, failures, failures_between, headroom_percent, load_budgets, void_reasons

TARGETS = ("predictions", "features", "ingest")
POINT_SECONDS = 15.0
SOAK_SECONDS = 600.0
DISTURBED_SECONDS = 60.0
SOAK_USERS = 14
CALL_SECONDS = 15.0
LEAST_RATIO = 0.9
# A suite that starts from nothing: its keys, its policies, its databases.
MOST_START_SECONDS = 60.0


@dataclass(frozen=True)
class Steady:
    """What a run with users over some time found.

    Attributes:
        samples: memory of the services.
        restarts: of services that were not killed from here.
        failed, failed_disturbed: calls, of all and near a disturbance.
        back_seconds: from the kill until the service served again.
        headroom, lag_ms: what the generators left of a core, in percent, and how late they ran (p99).
        void: why they and not the suite were measured, or nothing.
    """

    samples: Sequence[memory.Sample]
    restarts: int
    failed: int
    failed_disturbed: int
    back_seconds: float
    headroom: float
    lag_ms: float
    void: Sequence[str]


async def steady(local: LocalRun, seconds: float, *, disturb: bool) -> Steady:
    """Let users of all kinds work for a while; with certificates replaced and a service killed in between, or in peace."""
    windows: list[tuple[float, float]] = []
    back = 0.0

    async def trouble() -> None:
        nonlocal back
        await asyncio.sleep(seconds * 0.4)
        begin = time.time()
        await local.rotate(await local.context())
        back = await local.kill("inference")
        windows.append((begin, time.time()))

    plan = Plan("soak", seconds, SOAK_USERS, 1, {FOLDER: str(local.folder)})
    async with local.observed() as seen:
        troubling = [asyncio.create_task(trouble())] if disturb else []
        try:
            ledger, generators = await drive(plan)
            await asyncio.gather(*troubling)
        finally:
            for task in troubling:
                task.cancel()
            await asyncio.gather(*troubling, return_exceptions=True)
    return Steady(
        samples=seen.samples,
        restarts=seen.unexpected_restarts,
        failed=failures(ledger),
        failed_disturbed=failures_between(ledger, windows, CALL_SECONDS),
        back_seconds=back,
        headroom=headroom_percent(ledger),
        lag_ms=ledger.lag.percentile_ms(0.99),
        void=void_reasons(ledger, generators, load_budgets()),
    )


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
    scaled: dict[str, dict[str, Point]] = {}
    try:
        scaled = await replicated(options)
    except LoadError as error:
        # What was measured so far is worth keeping.
        print(f"replicas were not measured: {error}", file=sys.stderr)
    void = reasons(sweeps, calm, disturbed, scaled)
    checks = figures(local, sweeps, calm, disturbed, scaled, void)
    details = {
        "void": void,
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
        "replicas": {target: {n: each.goodput for n, each in points.items()} for target, points in scaled.items()},
        "kill_back_seconds": disturbed.back_seconds,
    }
    path = write("suite", checks, details)
    path.with_suffix(".html").write_text(render(checks, sweeps, local, calm, scaled), encoding="utf-8")
    print(f"wrote {path.with_suffix('.html')}")
    if void:
        print("void: " + "; ".join(void))
    return int(Outcome.VOID if void else Outcome.KEPT)


async def replicated(options: argparse.Namespace) -> dict[str, dict[str, Point]]:
    """Return what one replica and two of them do, on the distributed profile, where services have replicas."""
    local = LocalRun(options.dir.resolve().with_name("distributed"), options.port_base, profile="distributed")
    async with local.running():
        await local.prepare(await local.context())
        return {
            target: await replicas(local.folder, target, options.point_seconds)
            for target in ("predictions", "features")
        }


Scaled = Mapping[str, Mapping[str, Point]]


def named_points(sweeps: Sequence[Sweep], scaled: Scaled) -> list[tuple[str, Point]]:
    """Return the point of each probe with what it was."""
    return [
        *((f"{sweep.target}, busy callers", sweep.busy) for sweep in sweeps),
        *((f"{sweep.target} at {each.offered:,.0f}/s", each) for sweep in sweeps for each in sweep.points),
        *((f"{target}, replicas: {n}", each) for target, points in scaled.items() for n, each in points.items()),
    ]


def reasons(sweeps: Sequence[Sweep], calm: Steady, disturbed: Steady, scaled: Scaled) -> list[str]:
    """Return why a generator and not the suite was measured somewhere, or nothing."""
    found = [(name, each.void) for name, each in named_points(sweeps, scaled)]
    found += [("the soak", calm.void), ("the disturbed run", disturbed.void)]
    return [f"{name}: {reason}" for name, each in found for reason in each]


def figures(
    local: LocalRun, sweeps: Sequence[Sweep], calm: Steady, disturbed: Steady, scaled: Scaled, void: Sequence[str]
) -> list[Check]:
    """Return the checks."""
    budgets, points = load_budgets(), [each for _, each in named_points(sweeps, scaled)]
    lag = max([each.generator_lag_ms for each in points] + [calm.lag_ms, disturbed.lag_ms])
    headroom = min([100.0 * (1.0 - each.generator_cores) for each in points] + [calm.headroom, disturbed.headroom])
    checks = [Check("goodput_at_2x_ratio", min(each.ratio for each in sweeps), "ratio", ">=", LEAST_RATIO)]
    checks += [Check(f"goodput_at_2x_ratio_{s.target}", s.ratio, "ratio", ">=", LEAST_RATIO) for s in sweeps]
    return [
        *checks,
        Check("soak_rss_growth_percent", memory.growth_percent(calm.samples), "%", "<=", 5.0),
        Check("generator_lag_ms", lag, "ms", "<=", budgets.lag_p99_ms),
        Check("generator_headroom_percent", headroom, "%", ">=", budgets.headroom_percent),
        Check("unsent", sum(each.unsent for each in points), "calls", "==", 0),
        Check("void_reasons", len(void), "reasons", "==", 0),
        Check("unexpected_restarts", calm.restarts + disturbed.restarts, "restarts", "==", 0),
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
    scaled: Scaled,
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
        page.table(
            ("target", "1 replica", "2 replicas"),
            [(target, each["1"].goodput, each["2"].goodput) for target, each in scaled.items()],
        ),
        page.heading("Start", "Seconds from the start of each process until it served; services wait for one another."),
        page.table(("service", "seconds"), sorted(local.services_seconds.items())),
    ]
    lead = "Open-loop arrivals from a process on the same machine; goodput counts right answers within the deadline."
    return page.page("The suite under load", lead, parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.suite", description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, default=Path("var/bench/suite"), help="folder of the suite")
    parser.add_argument(
        "--port-base",
        type=int,
        default=int(os.environ.get("HEDGEROW_PORT_BASE", "8600")),
        help="lowest port of the suite",
    )
    parser.add_argument("--point-seconds", type=float, default=POINT_SECONDS, help="length of each point of a sweep")
    parser.add_argument("--soak-seconds", type=float, default=SOAK_SECONDS, help="length of the soak")
    return parser


def main() -> int:
    """Read the arguments and run; return the exit code."""
    options = _parser().parse_args()
    try:
        return asyncio.run(run(options))
    except (LoadError, RuntimeError, HedgerowError) as error:
        print(f"the benchmark did not run: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
