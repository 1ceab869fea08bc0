"""Locust's side: it decides how many users of which kind there are, and keeps its statistics; the calls are made elsewhere.

Every Locust process starts one generator and passes on who comes and goes. gevent patches this process alone (ADR 0014).
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gevent
from locust import LoadTestShape, User, events
from locust.runners import MasterRunner, WorkerRunner

from loadtests.ledger import Ledger, Result
from loadtests.locust_kinds import KINDS, LEAST_USERS, Kind
from loadtests.shapes import users_at

END_SECONDS = 5.0
READY_SECONDS = 60.0
LAST_SECONDS = 20.0
KEY, END, LAST = "hedgerow", "hedgerow_end", "hedgerow_last"


class Generator:
    """The process that makes the calls for this Locust process, and what it got.

    Attributes:
        ledger: what came since the last time it was taken.
        most_in_flight: calls at a time.
        ended_early: it died, or did not end when it was told to: what it had not told is lost.
    """

    def __init__(self, environment: Any) -> None:
        self._environment = environment
        self._process = subprocess.Popen(
            [sys.executable, "-m", "loadtests.generator"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        with gevent.Timeout(READY_SECONDS):
            ready = self._process.stdout.readline()
        if not ready:
            raise RuntimeError("the generator ended before it was ready; its error is above")
        self.ledger = Ledger()
        self.most_in_flight = 0
        self.ended_early = False
        self._own_cpu, self._own_time = time.process_time(), time.monotonic()
        self._reader = gevent.spawn(self._read)

    def tell(self, command: str, kind: str) -> None:
        """Start or stop a user; that a process is gone is told at the end."""
        assert self._process.stdin is not None
        if not self._process.stdin.closed and self._process.poll() is None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(f"{command} {kind}\n")
                self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            report = json.loads(line)
            self.most_in_flight = max(self.most_in_flight, report["most_in_flight"])
            for each in report["results"]:
                self._count(Result(*each))
                gevent.sleep(0)  # heartbeats of Locust go first
            self.ledger.add_generator(f"generator {os.getpid()}", report["cpu"], report["seconds"], report["lags"])
            cpu, now = time.process_time(), time.monotonic()
            self.ledger.add_generator(f"locust {os.getpid()}", cpu - self._own_cpu, now - self._own_time, ())
            self._own_cpu, self._own_time = cpu, now

    def _count(self, result: Result) -> None:
        self.ledger.add(result)
        self._environment.events.request.fire(
            request_type=result.service,
            name=result.name,
            response_time=result.seconds * 1000,
            response_length=result.received,
            context={"sent": result.sent, "attempts": result.attempts},
            exception=RuntimeError(result.error) if result.error else None,
        )

    def take(self) -> dict[str, Any]:
        """Return what came since the last time."""
        taken, self.ledger = self.ledger, Ledger()
        return {"ledger": taken.to_json(), "most_in_flight": self.most_in_flight, "ended_early": self.ended_early}

    def end(self) -> None:
        """End the process and read its last line."""
        assert self._process.stdin is not None
        if self._process.stdin.closed:
            return
        died = self._process.poll() is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._reader.join(END_SECONDS)
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.ended_early = died or self._process.returncode != 0 or not self._reader.successful()


class Run:
    """What this process knows of the run: of its own generator, and as a master of the workers'."""

    def __init__(self) -> None:
        self.generator: Generator | None = None
        self.total = Ledger()
        self.most_in_flight = 0
        self.ended_early = False
        self.reports: dict[str, float] = {}
        self.done: set[str] = set()
        self.longest_silence = 0.0

    def add(self, data: dict[str, Any]) -> None:
        """Add what a generator got."""
        self.total.merge(Ledger.from_json(data["ledger"]))
        self.most_in_flight = max(self.most_in_flight, data["most_in_flight"])
        self.ended_early = self.ended_early or data["ended_early"]

    def heard(self, worker: str) -> None:
        """Note a worker's report and how long it had been silent."""
        now = time.monotonic()
        self.longest_silence = max(self.longest_silence, now - self.reports.get(worker, now))
        self.reports[worker] = now

    def write(self, missing: int) -> None:
        """Write everything to the file that the run's command reads."""
        content = {
            "ledger": self.total.to_json(), "most_in_flight": self.most_in_flight, "workers": len(self.reports),
            "missing_workers": missing, "longest_silence_seconds": self.longest_silence,
            "ended_early": self.ended_early,
        }  # fmt: skip
        Path(os.environ["HEDGEROW_LOAD_RESULT"]).write_text(json.dumps(content))


RUN = Run()


class _ServiceUser(User):  # type: ignore[misc]
    """A user who exists in the generator; this one only stands for it."""

    abstract = True
    kind = ""

    def on_start(self) -> None:
        assert RUN.generator is not None
        RUN.generator.tell("start", self.kind)

    def on_stop(self) -> None:
        assert RUN.generator is not None
        RUN.generator.tell("stop", self.kind)

    def live(self) -> None:
        """Wait; the generator does the rest."""
        gevent.sleep(1.0)

    tasks = [live]  # noqa: RUF012 - as Locust wants it


def _user(kind: Kind) -> type[User]:
    """Return Locust's class for a kind of user."""
    members = {"__doc__": f"A user who {kind.does}.", "kind": kind.name, "weight": kind.weight, "abstract": False}
    return type(f"{kind.name.capitalize()}User", (_ServiceUser,), members)


# Locust finds user classes by their names in the module.
globals().update({user.__name__: user for user in map(_user, KINDS)})


class Shape(LoadTestShape):  # type: ignore[misc]
    """The shape that the environment names."""

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are now, and how fast to get there."""
        seconds, peak = float(os.environ["HEDGEROW_LOAD_SECONDS"]), int(os.environ["HEDGEROW_LOAD_USERS"])
        shape = os.environ.get("HEDGEROW_LOAD_SHAPE", "ramp")
        users = users_at(shape, time.perf_counter() - self.start_time, seconds, peak, LEAST_USERS)
        return None if users is None else (users, max(10.0, peak / 2))


@events.init.add_listener
def _agree(environment: Any, **_: Any) -> None:
    """Let the master ask for the last figures: left alone it waits half a second for them, and they may take longer."""
    if _is_master(environment):
        environment.runner.register_message(LAST, lambda msg, **_: RUN.done.add(msg.node_id))
    elif isinstance(environment.runner, WorkerRunner):
        environment.runner.register_message(END, lambda **_: _send_last(environment), concurrent=True)


def _send_last(environment: Any) -> None:
    assert RUN.generator is not None
    RUN.generator.end()
    data: dict[str, Any] = {}
    environment.events.report_to_master.fire(client_id=environment.runner.client_id, data=data)
    environment.runner.send_message("stats", data)
    environment.runner.send_message(LAST)


@events.test_start.add_listener
def _begin(environment: Any, **_: Any) -> None:
    if RUN.generator is None and not _is_master(environment):
        RUN.generator = Generator(environment)


@events.report_to_master.add_listener
def _send(client_id: str, data: dict[str, Any]) -> None:
    if RUN.generator is not None:
        data[KEY] = RUN.generator.take()


@events.worker_report.add_listener
def _receive(client_id: str, data: dict[str, Any]) -> None:
    RUN.heard(client_id)
    if KEY in data:
        RUN.add(data[KEY])


@events.test_stop.add_listener
def _end(environment: Any, **_: Any) -> None:
    if RUN.generator is not None:
        RUN.generator.end()
    elif _is_master(environment):
        environment.runner.send_message(END)
        deadline = time.monotonic() + LAST_SECONDS
        while len(RUN.done) < len(RUN.reports) and time.monotonic() < deadline:
            gevent.sleep(0.05)


@events.quitting.add_listener
def _finish(environment: Any, **_: Any) -> None:
    if isinstance(environment.runner, WorkerRunner):
        return
    if RUN.generator is not None:
        RUN.add(RUN.generator.take())
    RUN.write(len(set(RUN.reports) - RUN.done) if _is_master(environment) else 0)
    # Whether the run is good is for its budgets to say, not for a single failed call.
    environment.process_exit_code = 0


def _is_master(environment: Any) -> bool:
    return isinstance(environment.runner, MasterRunner)
