"""``make right-sizing``: what each service and model of the running suite uses, and what to give it.

The metrics of every instance are read twice, a window apart. Advice goes by the window alone, so measure while the load
is on that you want to be ready for. Figures are of one instance: a service's replicas are listed one by one.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client import Metric
from rich.console import Console
from rich.table import Table

from suite.config import SuiteConfigError, load_config
from suite.run_file import RunFolder
from suite.scrape import scrape

MIB: Final = 1024 * 1024
REPORT: Final = Path("var/right-sizing.json")
CPU_HEADROOM: Final = 1.5
MEMORY_HEADROOM: Final = 1.25
MEMORY_SPARE_MIB: Final = 64
BUSY: Final = 0.7
IDLE: Final = 0.95
Families = Mapping[str, Metric]


@dataclass(frozen=True, slots=True)
class Usage:
    """What one instance used in the window.

    Attributes:
        instance: its name, such as ``features``.
        calls: calls that ended.
        cpu_seconds: processor seconds, those of ended child processes included.
        idle_share: share of the window in which it would have left one core for each worker idle; 0 when it used more.
        memory_mib: resident memory, the larger of the two readings.
        cpu_request_millicores: to ask a scheduler for.
        memory_request_mib: likewise.
        memory_limit_mib: beyond which it may be ended.
        advice: in words.
    """

    instance: str
    calls: int
    cpu_seconds: float
    idle_share: float
    memory_mib: int
    cpu_request_millicores: int
    memory_request_mib: int
    memory_limit_mib: int
    advice: str


@dataclass(frozen=True, slots=True)
class ModelUsage:
    """What one deployed model used in the window.

    Attributes:
        instance: the inference instance it was on.
        deployment: its id.
        version: the version it served.
        predictions: rows answered.
        model_seconds: seconds in which it ran.
        idle_share: share of the window in which no batch of it ran, if one at a time did on each worker.
        advice: in words.
    """

    instance: str
    deployment: str
    version: str
    predictions: int
    model_seconds: float
    idle_share: float
    advice: str


@dataclass(frozen=True, slots=True)
class Report:
    """A measurement.

    Attributes:
        window_seconds: how long it took.
        services: of each instance.
        models: of each model on each instance.
    """

    window_seconds: float
    services: Sequence[Usage] = field(default_factory=tuple)
    models: Sequence[ModelUsage] = field(default_factory=tuple)


def total(families: Families, name: str, **labels: str) -> float:
    """Return the sum of a metric's samples with these labels; 0 when there are none."""
    return sum(
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


def workers(families: Families) -> int:
    """Return how many processes of an instance answer calls: those told apart as workers, less their parent, or one."""
    family = families.get("process_start_time_seconds")
    named = {sample.labels.get("worker", "") for sample in family.samples} if family else set()
    return max(1, len(named - {"", "parent"}))


def usage(instance: str, before: Families, after: Families, seconds: float) -> Usage:
    """Return what an instance used between two readings."""

    def grown(name: str) -> float:
        # A service that started again in between has counted from 0.
        first, last = total(before, name), total(after, name)
        return last - first if last >= first else last

    cpu = grown("process_cpu_seconds_total") + grown("hedgerow_children_cpu_seconds_total")
    memory = max(total(one, "process_resident_memory_bytes") for one in (before, after)) / MIB
    cores = cpu / seconds
    share = cores / workers(after)
    return Usage(
        instance=instance,
        calls=round(grown("hedgerow_rpc_handled_total")),
        cpu_seconds=round(cpu, 3),
        idle_share=round(max(0.0, 1 - share), 4),
        memory_mib=math.ceil(memory),
        cpu_request_millicores=max(50, _up(cores * CPU_HEADROOM * 1000, 10)),
        memory_request_mib=_up(memory, 16),
        memory_limit_mib=_up(memory * MEMORY_HEADROOM + MEMORY_SPARE_MIB, 16),
        advice=_advise(share),
    )


def model_usages(instance: str, before: Families, after: Families, seconds: float) -> list[ModelUsage]:
    """Return what each model of an instance used between two readings."""
    found = []
    served = {
        (sample.labels["deployment"], sample.labels["version"])
        for family in after.values()
        for sample in family.samples
        if sample.name == "hedgerow_model_predictions_total"
    }
    for deployment, version in sorted(served):
        labels = {"deployment": deployment, "version": version}
        rows, busy = (
            max(0.0, total(after, name, **labels) - total(before, name, **labels))
            for name in ("hedgerow_model_predictions_total", "hedgerow_model_busy_seconds_total")
        )
        share = busy / seconds / workers(after)
        advice = _advise_model(rows, share)
        idle = round(max(0.0, 1 - share), 4)
        found.append(ModelUsage(instance, deployment, version, round(rows), round(busy, 4), idle, advice))
    return found


def _up(value: float, step: int) -> int:
    # Rounded, so that what a float adds to a whole number is not taken for a step more.
    return math.ceil(round(value / step, 6)) * step


def _advise(share: float) -> str:
    if share > BUSY:
        return "near one core for each worker: add a replica before the load grows"
    if share < 1 - IDLE:
        return "idle: the least request is enough; replicas are for availability only"
    return "fits: leave it as it is"


def _advise_model(rows: float, share: float) -> str:
    if not rows:
        return "nobody asked: if that stays so, it holds memory for nothing"
    if share > BUSY:
        return "near the limit of one thread for each worker: larger batches or a replica"
    return "fits: leave it as it is"


def measure(folder: Path, seconds: float) -> Report:
    """Read the metrics of a running suite twice.

    Args:
        folder: of the suite.
        seconds: between the readings.

    Raises:
        OSError: the suite does not run, or an instance does not answer.
    """
    state = RunFolder(folder / "run").read()
    if state is None or not state.is_alive():
        raise OSError(f"no suite runs from {folder}; start one with `make up`")
    ports = {name: service.ports["metrics"] for name, service in state.services.items() if "metrics" in service.ports}
    # Each is asked with its own identity, which only the owner of the folder can read.
    began = time.monotonic()
    before = {name: scrape(folder / name / "identity", port) for name, port in ports.items()}
    time.sleep(seconds)
    after = {name: scrape(folder / name / "identity", port) for name, port in ports.items()}
    window = time.monotonic() - began
    return Report(
        round(window, 2),
        [usage(name, before[name], after[name], window) for name in ports],
        [model for name in ports for model in model_usages(name, before[name], after[name], window)],
    )


def show(report: Report, console: Console) -> None:
    """Print the report as tables."""
    services = Table(title=f"Services, over {report.window_seconds:.0f} s")
    for heading in ("service", "calls", "CPU s", "idle", "memory", "request", "limit", "advice"):
        services.add_column(heading, justify="left" if heading in ("service", "advice") else "right")
    for one in report.services:
        services.add_row(
            one.instance,
            f"{one.calls:,}",
            f"{one.cpu_seconds:.2f}",
            f"{one.idle_share:.1%}",
            f"{one.memory_mib} MiB",
            f"{one.cpu_request_millicores}m, {one.memory_request_mib} MiB",
            f"{one.memory_limit_mib} MiB",
            one.advice,
        )
    console.print(services)
    models = Table(title="Models")
    for heading in ("model", "on", "predictions", "model s", "idle", "advice"):
        models.add_column(heading, justify="left" if heading in ("model", "on", "advice") else "right")
    for model in report.models:
        models.add_row(
            f"{model.deployment} {model.version}",
            model.instance,
            f"{model.predictions:,}",
            f"{model.model_seconds:.3f}",
            f"{model.idle_share:.1%}",
            model.advice,
        )
    console.print(models if report.models else "No model is deployed.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write the report; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m suite.right_sizing", description=__doc__)
    parser.add_argument("--dir", type=Path, help="folder of the suite (var/local)")
    parser.add_argument("--profile", help="of the suite (embedded)")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to measure (30)")
    parser.add_argument("--report", type=Path, default=REPORT, help=f"where the figures go ({REPORT})")
    options = parser.parse_args(arguments)
    try:
        report = measure(load_config(folder=options.dir, profile=options.profile).folder, options.seconds)
    except (SuiteConfigError, OSError) as error:
        print(f"right-sizing: {error}", file=sys.stderr)
        return 1
    content: dict[str, Any] = asdict(report)
    options.report.parent.mkdir(parents=True, exist_ok=True)
    options.report.write_text(json.dumps(content, indent=1) + "\n")
    show(report, Console())
    print(f"figures: {options.report}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
