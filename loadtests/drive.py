"""Runs Locust as processes, on loopback alone: one, or a master with workers. It is never imported here."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from loadtests.ledger import Ledger
from loadtests.local_run import LoadError
from loadtests.verdict import Generators

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
# On top of the run's length: to start, to spawn, and to end with calls in progress.
GRACE_SECONDS = 90.0
END_SECONDS = 10.0


@dataclass(frozen=True)
class Plan:
    """What Locust is to do.

    Attributes:
        shape: of ``loadtests.shapes``.
        seconds: length of the run.
        users: the most there are.
        workers: processes that generate load.
        environment: variables for them.
        html: where Locust's own report goes, or nowhere.
    """

    shape: str
    seconds: float
    users: int
    workers: int
    environment: Mapping[str, str]
    html: Path | None = None


async def drive(plan: Plan) -> tuple[Ledger, Generators]:
    """Run it and return what it got.

    Raises:
        LoadError: Locust failed or did not end.
    """
    with tempfile.TemporaryDirectory(prefix="hedgerow-load-") as folder:
        result = Path(folder) / "result.json"
        environment = {
            **os.environ,
            **plan.environment,
            "PYTHONPATH": str(LOCUSTFILE.parents[1]),
            "HEDGEROW_LOAD_RESULT": str(result),
            "HEDGEROW_LOAD_SHAPE": plan.shape,
            "HEDGEROW_LOAD_SECONDS": str(plan.seconds),
            "HEDGEROW_LOAD_USERS": str(plan.users),
        }
        async with _processes(plan, environment) as processes:
            first = processes[0]
            try:
                output, _ = await asyncio.wait_for(first.communicate(), plan.seconds + GRACE_SECONDS)
            except TimeoutError:
                raise LoadError(f"Locust did not end within {GRACE_SECONDS:.0f} s of the end of its run") from None
        if first.returncode or not result.exists():
            raise LoadError(
                f"Locust ended with exit code {first.returncode}:\n{output.decode(errors='replace')[-4000:]}"
            )
        content = json.loads(result.read_text())
    generators = Generators(
        content["workers"],
        content["missing_workers"] + max(0, (plan.workers if plan.workers > 1 else 0) - content["workers"]),
        content["longest_silence_seconds"],
        content["most_in_flight"],
        content["ended_early"],
    )
    return Ledger.from_json(content["ledger"]), generators


@contextlib.asynccontextmanager
async def _processes(plan: Plan, environment: Mapping[str, str]) -> AsyncIterator[list[asyncio.subprocess.Process]]:
    """Yield Locust's processes, the one to wait for first; end what is left at the end."""
    port = _free_port()
    first = ["--headless", "--exit-code-on-error", "0", "--only-summary", "--loglevel", "WARNING"]
    if plan.html is not None:
        plan.html.parent.mkdir(parents=True, exist_ok=True)
        first += ["--html", str(plan.html)]
    commands = [first]
    if plan.workers > 1:
        first += ["--master", "--master-bind-host", "127.0.0.1", "--master-bind-port", str(port)]
        first += ["--expect-workers", str(plan.workers), "--expect-workers-max-wait", "60"]
        worker = ["--worker", "--master-host", "127.0.0.1", "--master-port", str(port), "--loglevel", "WARNING"]
        commands += [worker] * plan.workers
    processes: list[asyncio.subprocess.Process] = []
    try:
        for number, command in enumerate(commands):
            processes.append(
                await asyncio.create_subprocess_exec(
                    sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), *command, env=dict(environment),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE if not number else asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.STDOUT if not number else None,
                )
            )  # fmt: skip
        yield processes
    finally:
        for process in processes:
            if process.returncode is None:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(process.wait(), END_SECONDS if process is not processes[0] else 0.1)
            if process.returncode is None:
                process.kill()
                await process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
