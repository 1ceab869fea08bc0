"""The suite that a load runs on: one that is up, or one that is started, given a slice of the example, and stopped."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from examples.credit import definitions, records
from examples.credit.run import CREDIT_RISK, id_prefix
from hedgerow.client import ServiceClient, renew
from hedgerow.errors import HedgerowError, NotFoundError
from hedgerow.identity import IdentityFolder
from hedgerow.sdk import Context, Hedgerow, login
from hedgerow.sdk import definitions as sdk_definitions
from hedgerow.sdk.definitions import Definition
from hedgerow.secrets.v1 import secrets_pb2
from hedgerow.training.v1 import training_pb2
from loadtests.memory import Sample
from loadtests.scenario import CLIENTS, CONTRACT, DATASET, DEPLOYMENT, MODEL, PEOPLE
from suite.run_file import RunFolder, RunState

START_SECONDS = 180.0
STOP_SECONDS = 90.0
POLL_SECONDS = 0.05
SAMPLE_SECONDS = 2.0
BACK_SECONDS = 60.0
_ACCESS_SECONDS = dt.timedelta(minutes=2)
# Short enough that every identity is renewed within a run of some minutes.
CERTIFICATE_SECONDS = 180
_MIB = 1024 * 1024


class LoadError(Exception):
    """The run cannot go on; the message says why."""


@dataclass
class Observed:
    """What was seen of the services over a while.

    Attributes:
        samples: their memory, now and then.
        unexpected_restarts: how often one was started again that was not killed from here.
    """

    samples: list[Sample] = field(default_factory=list)
    unexpected_restarts: int = 0


@dataclass
class LocalRun:
    """A suite in a folder of this machine.

    Attributes:
        folder: of the suite.
        port_base: its lowest port, when it is started here.
        environment: variables for the services, when it is started here.
        profile: of the suite, when it is started here.
        started_here: whether it was.
        start_seconds: from the command until everything served, when it was.
        services_seconds: the same for each service, from the start of its process.
        kills: how often each service was killed from here.
    """

    folder: Path
    port_base: int
    environment: dict[str, str] = field(default_factory=dict)
    profile: str = "embedded"
    started_here: bool = False
    start_seconds: float = 0.0
    services_seconds: dict[str, float] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)

    def state(self) -> RunState:
        """Return what its supervisor says.

        Raises:
            LoadError: none is alive.
        """
        state = RunFolder(self.folder / "run").read()
        if state is None or not state.is_alive():
            raise LoadError(f"no suite is running in {self.folder}")
        return state

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[LocalRun]:
        """Start the suite unless it is up; stop it at the end if it was started here."""
        try:
            self.state()
        except LoadError:
            self.started_here = True
        try:
            if self.started_here:
                await self._start()
            yield self
        finally:
            if self.started_here:
                await self._command("down", seconds=STOP_SECONDS)

    async def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        lines = [f'{name} = "{value}"' for name, value in self.environment.items()]
        (self.folder / "suite.toml").write_text("\n".join(["[environment]", *lines, ""]))
        begin = time.monotonic()
        timing = asyncio.create_task(self._time_services())
        try:
            await self._command("up", "--detach", seconds=START_SECONDS)
        finally:
            timing.cancel()
            await asyncio.gather(timing, return_exceptions=True)
        self.start_seconds = time.monotonic() - begin

    async def _time_services(self) -> None:
        """Follow the run file and note how long each service took from its start until it served."""
        began: dict[str, float] = {}
        while True:
            state = RunFolder(self.folder / "run").read()
            for name, service in (state.services if state is not None and state.is_alive() else {}).items():
                if service.phase == "starting":
                    began[name] = service.since
                elif service.phase == "serving" and name in began:
                    self.services_seconds[name] = service.since - began[name]
            await asyncio.sleep(POLL_SECONDS)

    async def _command(self, *arguments: str, seconds: float) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "suite", *arguments, "--dir", str(self.folder),
            "--port-base", str(self.port_base), "--profile", self.profile, "--config", str(self.folder / "suite.toml"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        try:
            output, _ = await asyncio.wait_for(process.communicate(), seconds)
        except TimeoutError:
            process.terminate()
            await process.wait()
            raise LoadError(f"`python -m suite {arguments[0]}` took longer than {seconds:.0f} s") from None
        if process.returncode:
            raise LoadError(f"`python -m suite {arguments[0]}` failed: {output.decode(errors='replace').strip()}")

    # ---- what the load needs of it

    async def context(self) -> Context:
        """Return where it is, with everyone who takes part logged in."""
        context = Context.load(self.folder)
        for person in PEOPLE:
            folder = context.identity(person)
            identity = folder.load()
            if identity is None or identity.expire_time < dt.datetime.now(dt.UTC) + _ACCESS_SECONDS:
                await login(context, person, (folder.folder / "password").read_text(encoding="utf-8").strip())
        return context

    async def prepare(self, context: Context) -> None:
        """Make the data, the features, a model and its deployment, unless they are there."""
        async with contextlib.AsyncExitStack() as stack:
            ana, ben = [
                await stack.enter_async_context(Hedgerow.connect(context.identity(name), context.addresses))
                for name in ("ana", "ben")
            ]
            await ana.for_purpose(CREDIT_RISK).ingestion.create_dataset(DATASET, CONTRACT)
            try:
                await ben.for_purpose(CREDIT_RISK).inference.get_deployment(DEPLOYMENT)
            except NotFoundError:
                await _make_example(ana, ben)

    async def rotate(self, context: Context) -> list[str]:
        """Give every caller a new certificate with a new key; return whose stored certificate is another one now."""
        changed = []
        for person in PEOPLE:
            folder = context.identity(person)
            before = _serial(folder)
            async with Hedgerow.connect(folder, context.addresses) as caller:
                client: ServiceClient = caller.secrets._client
                folder.save(await renew(client, secrets_pb2.RenewCertificateRequest))
            if _serial(folder) not in (before, None):
                changed.append(person)
        return changed

    async def kill(self, service: str) -> float:
        """Kill a service as a crash would; return the seconds until it served again."""
        before = self.state().services[service]
        begin = time.monotonic()
        os.kill(before.pid, signal.SIGKILL)
        self.kills[service] += 1
        while time.monotonic() - begin < BACK_SECONDS:
            now = self.state().services[service]
            if now.restarts > before.restarts and now.phase == "serving":
                return time.monotonic() - begin
            await asyncio.sleep(POLL_SECONDS)
        raise LoadError(f"{service} did not come back within {BACK_SECONDS:.0f} s of its kill")

    # ---- what is seen of it meanwhile

    @contextlib.asynccontextmanager
    async def observed(self) -> AsyncIterator[Observed]:
        """Watch the services while the block runs.

        Raises:
            LoadError: the suite ended meanwhile.
        """
        seen, before = Observed(), self._restarts()
        sampling = asyncio.create_task(self._sample(seen.samples))
        try:
            yield seen
            if sampling.done():
                sampling.result()
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        seen.unexpected_restarts = (self._restarts() - before).total()

    async def _sample(self, samples: list[Sample]) -> None:
        while True:
            samples.append((time.time(), await asyncio.to_thread(self.memory_mib)))
            await asyncio.sleep(SAMPLE_SECONDS)

    def _restarts(self) -> Counter[str]:
        """Return how often each service was started again for another reason than a kill from here."""
        return Counter({name: each.restarts for name, each in self.state().services.items()}) - self.kills

    def serials(self) -> dict[str, int]:
        """Return the serial number of each service's certificate."""
        found = {name: _serial(IdentityFolder(self.folder / name / "identity")) for name in self.state().services}
        return {name: serial for name, serial in found.items() if serial is not None}

    def memory_mib(self) -> dict[str, float]:
        """Return the resident memory of each service with its descendants, in MiB."""
        memory = {}
        for name, service in self.state().services.items():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(service.pid)
                family = [process, *process.children(recursive=True)]
                memory[name] = sum(each.memory_info().rss for each in family) / _MIB
        return memory


def _serial(folder: IdentityFolder) -> int | None:
    identity = folder.load()
    return None if identity is None else identity.certificate.serial_number


async def _make_example(ana: Hedgerow, ben: Hedgerow) -> None:
    """Take the path of the example with a slice of its clients; its gates are for the whole and stay out of the way."""
    made = await asyncio.to_thread(records.load, id_prefix(1), CLIENTS)
    everything = definitions.load(1)

    async def apply(who: Hedgerow, kinds: Sequence[str]) -> None:
        for definition in everything:
            if definition.kind in kinds:
                await sdk_definitions.apply(who.for_purpose(definition.purpose or CREDIT_RISK), definition)

    await apply(ana, ["Dataset"])
    for base, table in (("clients", made.clients), ("statements", made.statements)):
        await ana.for_purpose(CREDIT_RISK).ingestion.append(f"datasets/{base}", table)
    await apply(ana, ["FeatureView", "FeatureService"])
    await apply(ben, ["TrainingSet"])
    await apply(ana, ["Materialization"])
    await _train(ben, definitions.select(everything, "TrainingRun")[0])
    await apply(ben, ["Deployment"])


async def _train(ben: Hedgerow, definition: Definition) -> None:
    spec = training_pb2.TrainingSpec()
    spec.CopyFrom(definition.request.spec)
    spec.world_size, spec.max_epochs = 1, 4
    bounds = spec.gate_bounds
    bounds.min_auc, bounds.max_ece, bounds.max_latency_p99_ms = 0.5, 1.0, 1000
    bounds.max_equalized_odds_difference, bounds.min_robust_auc, bounds.min_group_evidence = 1.0, 0.01, 1
    caller = ben.for_purpose(CREDIT_RISK)
    run = await caller.training.create_training_run(spec)
    done = await caller.training.wait_for_training_run(run.name)
    try:
        await caller.models.promote(done.model_version, "champion")
    except HedgerowError as error:
        raise LoadError(f"the model for {MODEL} was not promoted: {error.message}") from error
