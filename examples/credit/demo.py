"""The main job on real data, through the public APIs, as five people: `make demo`, or `python -m examples.credit.demo`.

Starts the suite unless it is up, takes the six steps, prints what happens and a closing summary, writes `report.html` and
`report.json`, and stops what it started. Exits 0 when it ran through, whatever the figures are; 1 when a step failed.
"""

import argparse
import asyncio
import datetime as dt
import re
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from examples.credit import definitions, records
from examples.credit.checks import checks
from examples.credit.local_suite import LocalSuite
from examples.credit.report import page
from examples.credit.report.model import Report, StepTiming
from examples.credit.run import PEOPLE, DemoError, Run, id_prefix
from examples.credit.steps.audit import audit
from examples.credit.steps.erasure import erase
from examples.credit.steps.features import features
from examples.credit.steps.ingest import ingest
from examples.credit.steps.promote import promote
from examples.credit.steps.refusals import refusals
from examples.credit.steps.serve import serve
from examples.credit.steps.train import train
from hedgerow.errors import HedgerowError
from hedgerow.identity import IdentityFolder
from hedgerow.sdk import Context, Hedgerow, login
from suite.config import PROFILES, SuiteConfigError, load_config

_LEAST_CERTIFICATE = dt.timedelta(minutes=10)
_DATASET = re.compile(r"datasets/clients(?:_(\d+))?")


async def demo(suite: LocalSuite, report_folder: Path, console: Console, begin: float) -> Report:
    """Runs the demo on a suite, writes the report and returns it."""
    start_time = dt.datetime.now(dt.UTC)
    _check_writable(report_folder)
    timings: list[StepTiming] = []
    console.print("[bold]Hedgerow: from raw records to an audited, explained prediction[/bold]")
    with console.status("  starting the suite" if suite.state() is None else "  reaching the suite"):
        loading = asyncio.create_task(asyncio.to_thread(records.load, id_prefix(1)))
        stack = AsyncExitStack()
        await stack.enter_async_context(suite.running())
    async with stack:
        timings.append(StepTiming("Start", 0.0, time.monotonic() - begin))
        context = suite.context()
        callers = {name: await stack.enter_async_context(await _connect(context, name)) for name in PEOPLE}
        run = await _begin(context, callers, await loading, console, begin, timings)
        report, max_gap = await _steps(run, suite, start_time)
    seconds = time.monotonic() - begin
    if suite.started_here:
        end = timings[-1].start + timings[-1].seconds
        timings.append(StepTiming("Stop", end, seconds - end))
    report = replace(report, seconds=seconds, timings=timings)
    report = replace(report, checks=checks(report, max_gap, suite.profile))
    _summarize(report, page.write(report, report_folder), console)
    return report


def _check_writable(report_folder: Path) -> None:
    """Fails before the work rather than after it."""
    try:
        report_folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=report_folder):
            pass
    except OSError as error:
        raise DemoError(f"the report cannot be written to {report_folder}: {error.strerror}") from error


async def _connect(context: Context, name: str) -> Hedgerow:
    """Returns a person's connection, logging in when there is no certificate that lasts for the run."""
    identity = context.identity(name).load()
    if identity is None or identity.expire_time < dt.datetime.now(dt.UTC) + _LEAST_CERTIFICATE:
        await login(context, name, _password(context.identity(name)))
    return Hedgerow.connect(context.identity(name), context.addresses)


def _password(folder: IdentityFolder) -> str:
    try:
        return (folder.folder / "password").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        raise DemoError(
            f"{folder.folder.name} has neither a valid certificate nor a password in {folder.folder}"
        ) from None


async def _begin(
    context: Context,
    callers: dict[str, Hedgerow],
    loaded: records.CreditRecords,
    console: Console,
    begin: float,
    timings: list[StepTiming],
) -> Run:
    """Finds out which run this is on this suite."""
    taken = [0]
    async for dataset in callers["ana"].ingestion.list_datasets():
        match = _DATASET.fullmatch(dataset.name)
        taken += [int(match[1] or 1)] if match else []
    number = max(taken) + 1
    console.print(f"  run {number} on the suite in {context.folder}, as {', '.join(PEOPLE)}")
    return Run(
        number=number,
        context=context,
        callers=callers,
        definitions=definitions.load(number),
        records=loaded if number == 1 else await asyncio.to_thread(records.load, id_prefix(number)),
        data_dir=context.folder,
        console=console,
        begin=begin,
        timings=timings,
    )


async def _steps(run: Run, suite: LocalSuite, start_time: dt.datetime) -> tuple[Report, float]:
    """Takes the steps and returns the report, still without its checks, and the largest completeness gap."""
    with run.step(1, "Ingest"):
        ingested = await ingest(run)
    with run.step(2, "Features"):
        featured = await features(run)
    with run.step(3, "Train"):
        good, worse = await train(run)
    with run.step(4, "Gate and register"):
        promoted = await promote(run, good, worse)
    with run.step(5, "Serve"):
        served = await serve(run)
    with run.step(6, "Prove: refusals"):
        refused = await refusals(run)
    with run.step(6, "Prove: erasure"):
        erased = await erase(run, featured.rows)
    with run.step(6, "Prove: audit"):
        audited = await audit(run, start_time)
    report = Report(
        run=str(run.number),
        start_time=start_time,
        seconds=0.0,
        rss_mib=suite.memory_mib(),
        timings=run.timings,
        datasets=ingested.datasets,
        quarantine=ingested.quarantine,
        features=featured.facts,
        champion=promoted.champion,
        challenger=promoted.challenger,
        serving=served.facts,
        refusals=refused,
        audit=audited,
        erasure=erased,
    )
    return report, served.max_gap


def _summarize(report: Report, written: tuple[Path, Path], console: Console) -> None:
    table = Table(box=None, pad_edge=False)
    for title in ("", "check", "value", "goal"):
        table.add_column(title, justify="right" if title == "value" else "left")
    for check in report.checks:
        mark = "[green]✓[/green]" if check.met else "[red]✗[/red]"
        table.add_row(mark, check.name, page.measured(check, check.value), page.goal(check))
    console.print()
    console.print(table)
    met = sum(check.met for check in report.checks)
    console.print(f"\n{met} of {len(report.checks)} figures keep their goal, in {report.seconds:.0f} s")
    for path in written:
        console.print(f"  {path}", soft_wrap=True)


def main() -> int:
    """Reads the arguments, runs the demo and returns the exit code."""
    begin = time.monotonic()
    parser = argparse.ArgumentParser(prog="python -m examples.credit.demo", description=__doc__.partition("\n")[0])
    parser.add_argument("--dir", type=Path, help="folder of the suite (var/local or var/distributed)")
    parser.add_argument("--profile", help=f"{' or '.join(PROFILES)}, when the suite is to be started (embedded)")
    parser.add_argument("--report", type=Path, default=Path("var/demo"), help="folder for the report")
    options = parser.parse_args()
    console = Console(highlight=False)
    try:
        config = load_config(folder=options.dir, profile=options.profile)
        asyncio.run(demo(LocalSuite(config.folder, config.profile), options.report, console, begin))
    except SuiteConfigError as error:
        return _failed(console, error, str(error))
    except DemoError as error:
        return _failed(console, error, str(error))
    except HedgerowError as error:
        return _failed(console, error, f"{error.message} [{error.code_name} {error.reason}]")
    except KeyboardInterrupt as error:
        return _failed(console, error, "stopped")
    return 0


def _failed(console: Console, error: BaseException, why: str) -> int:
    where = " ".join(getattr(error, "__notes__", []))
    console.print(
        f"\n[red]The demo did not run through:[/red] {escape(f'{why} ({where})' if where else why)}", soft_wrap=True
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
