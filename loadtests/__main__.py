"""``python -m loadtests``: put load on the suite, disturb it in the middle, and hold what comes of it to the budgets.

Exits 0 when all budgets are kept, 1 when one is broken, 3 when the run is void because the generator was the bottleneck or
did not last, and 2 when it could not be run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from benchmarks.report import Check
from hedgerow.errors import HedgerowError
from hedgerow.sdk import Context
from loadtests import memory, report
from loadtests.drive import Plan, drive
from loadtests.local_run import CERTIFICATE_SECONDS, LoadError, LocalRun
from loadtests.report import Disturbances, LoadReport
from loadtests.scenario import FOLDER, PEOPLE
from loadtests.shapes import SHAPES
from loadtests.verdict import Budgets, checks, failures_between, load_budgets, outcome, void_reasons

ROTATE_AT, KILL_AT = 0.4, 0.55
# The longest deadline of a call: what a disturbance met has ended by then.
CALL_SECONDS = 15.0
SOAK_GROWTH_PERCENT = 5.0
FAILED_TO_RUN = 2


async def load(options: argparse.Namespace, budgets: Budgets) -> LoadReport:
    """Run the load and return what it got."""
    local = LocalRun(
        options.dir.resolve(), options.port_base, {"HEDGEROW_CERTIFICATE_LIFE_SECONDS": str(CERTIFICATE_SECONDS)}
    )
    async with local.running():
        context = await local.context()
        await local.prepare(context)
        before = local.serials()
        print(f"{options.shape}: up to {options.users} users for {options.seconds:g} s on {local.folder}", flush=True)
        plan = Plan(
            options.shape, options.seconds, options.users, options.workers, {FOLDER: str(local.folder)},
            options.report / "locust.html",
        )  # fmt: skip
        disturbances = Disturbances()
        async with local.observed() as seen:
            disturbing = asyncio.create_task(_disturb(local, context, options, disturbances))
            try:
                ledger, generators = await drive(plan)
                await disturbing
            finally:
                disturbing.cancel()
                await asyncio.gather(disturbing, return_exceptions=True)
        made = checks(ledger, budgets)
        made += rotation(disturbances, before, local.serials(), due=_is_due(local, options))
    made.append(Check("unexpected_restarts", seen.unexpected_restarts, "restarts", "<=", 0))
    if options.kill:
        windows = [(begin, end) for _, begin, end in disturbances.windows]
        count = failures_between(ledger, windows, CALL_SECONDS)
        made.append(Check("load_failures_during_kill_and_rotation", count, "calls", "<=", 0))
        callers = len(set(PEOPLE) & set(disturbances.rotated))
        made.append(Check("callers_rotated", callers, "callers", ">=", len(PEOPLE)))
    if options.shape == "soak":
        growth = memory.growth_percent(seen.samples)
        made.append(Check("soak_rss_growth_percent", growth, "%", "<=", SOAK_GROWTH_PERCENT))
    void = void_reasons(ledger, generators, budgets)
    return LoadReport(
        options.shape, options.seconds, options.users, ledger, generators, disturbances, seen.samples, made, void,
        outcome(made, void),
    )  # fmt: skip


def _is_due(local: LocalRun, options: argparse.Namespace) -> bool:
    """Whether each service must have rotated: its certificate is short-lived, and the run outlasts that life."""
    return bool(local.started_here and options.seconds >= CERTIFICATE_SECONDS)


def rotation(done: Disturbances, before: Mapping[str, int], after: Mapping[str, int], *, due: bool) -> list[Check]:
    """Note the services with another certificate than before; return the check that it is all of them, where due."""
    services = sorted(name for name in after if after[name] != before.get(name))
    done.rotated += services
    if due:
        return [Check("services_rotated", len(services), "services", ">=", len(before))]
    print(f"not every service had to rotate: that takes a suite started here and {CERTIFICATE_SECONDS} s")
    return []


async def _disturb(local: LocalRun, context: Context, options: argparse.Namespace, done: Disturbances) -> None:
    """Replace the callers' certificates and kill a service, both in the middle of the run."""
    if not options.kill:
        return
    begin = time.time()
    await asyncio.sleep(options.seconds * ROTATE_AT)
    start = time.time()
    done.rotated += await local.rotate(context)
    done.windows.append(("rotation", start, time.time()))
    await asyncio.sleep(max(0.0, begin + options.seconds * KILL_AT - time.time()))
    start = time.time()
    done.killed = options.kill
    done.back_seconds = await local.kill(options.kill)
    done.windows.append((f"kill -9 {options.kill}", start, time.time()))


def duration(text: str) -> float:
    """Return seconds from text such as ``90``, ``10m`` or ``1h``."""
    units = {"s": 1, "m": 60, "h": 3600}
    number, unit = (text[:-1], units[text[-1]]) if text and text[-1] in units else (text, 1)
    return float(number) * unit


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m loadtests", description=__doc__.partition("\n")[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="ramp", help="how the number of users changes")
    parser.add_argument("--seconds", type=duration, default=300.0, help="length of the run (300)")
    parser.add_argument("--users", type=int, default=28, help="the most users at a time (28)")
    parser.add_argument("--workers", type=int, default=1, help="processes that generate load (1)")
    parser.add_argument("--dir", type=Path, default=Path("var/load/suite"), help="folder of the suite")
    parser.add_argument(
        "--port-base",
        type=int,
        default=int(os.environ.get("HEDGEROW_PORT_BASE", "8600")),
        help="lowest port of the suite if it is started here",
    )
    parser.add_argument("--report", type=Path, default=Path("var/load"), help="folder for the report")
    parser.add_argument("--budgets", type=Path, help="file of the budgets (loadtests/budgets.toml)")
    parser.add_argument("--kill", default="inference", metavar="SERVICE", help="which service is killed; '' for none")
    return parser


def main() -> int:
    """Run; return the exit code."""
    options = _parser().parse_args()
    try:
        budgets = load_budgets(options.budgets) if options.budgets else load_budgets()
        found = asyncio.run(load(options, budgets))
    except (LoadError, ValueError, OSError) as error:
        print(f"the load did not run: {error}", file=sys.stderr)
        return FAILED_TO_RUN
    except HedgerowError as error:
        print(f"the load did not run: {error.message} [{error.code_name} {error.reason}]", file=sys.stderr)
        return FAILED_TO_RUN
    for check in found.checks:
        mark = "met" if check.met else "MISSED"
        print(f"{check.name}: {check.value:,.2f} {check.unit} (goal {check.op} {check.goal:g}: {mark})")
    for path in report.write(found, options.report):
        print(f"wrote {path}")
    if found.void:
        print("void: " + "; ".join(found.void))
    print(f"the run is {found.outcome.name.lower()}")
    return int(found.outcome)


if __name__ == "__main__":
    sys.exit(main())
