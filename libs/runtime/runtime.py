"""One process of the suite, from start to stop."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient, renew
from hedgerow.errors import HedgerowError, UnavailableError
from hedgerow.governance.v1 import governance_pb2
from hedgerow.identity import Identity, IdentityFolder, IdentityRenewer
from hedgerow.private_file import write_private
from hedgerow.secrets.v1 import secrets_pb2
from libs.audit import AuditWriter
from libs.config import ServiceConfig
from libs.identity.trust import TrustStore
from libs.rpc.chain import Chain
from libs.rpc.delegation import DelegationSigner, DelegationVerifier
from libs.rpc.rate_limit import RateLimiter
from libs.rpc.server import Server
from libs.rpc.service import Service
from libs.runtime.enrolment import obtain_identity
from libs.runtime.following import follow
from libs.runtime.fork_guard import guard_forks
from libs.runtime.metrics_port import MetricsPort
from libs.runtime.policies import PolicyFile
from libs.runtime.revocations import RevocationFile
from libs.runtime.secrets import Secrets, SecretsClient
from libs.runtime.trail import Report, Ship, audit_writer, to_governance
from libs.runtime.vital_signs import Watches, show_audit, show_children, show_identity, show_policies
from libs.runtime.worker_link import ParentLink, worker_folder
from libs.telemetry import CallMetrics, Tracer, configure_logging, configure_tracing, get_logger
from libs.telemetry.cells import WorkerCells
from libs.telemetry.loop_lag import watch_loop
from libs.telemetry.pool import ObservedPool, observe_pools
from libs.telemetry.traces import FileSpanExporter

START_SECONDS = 30.0
RETRY_SECONDS = 1.0
BLOCKING_SECONDS = 30.0
EXIT_CANNOT_START = 3

T = TypeVar("T")
log = get_logger()


class Runtime:
    """What a service's ``__main__`` builds on.

    Attributes:
        config: as loaded.
        folder: the identity of this process.
        secrets: keys and signatures.
        data_dir: where the service keeps its data.
        authorizer: decides calls; follows the bundles of governance.
        trust: judges peers; follows the secrets service.
        registry: metrics of this process.
        metrics: those of its calls, over all its ports; ``metrics.instruments`` makes more.
        pools: the threads to show; a service adds its own.
    """

    def __init__(self, config: ServiceConfig, folder: IdentityFolder, secrets: Secrets | None) -> None:
        self.config = config
        self.folder = folder
        self.data_dir = config.data_dir / "data"
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self._link: ParentLink | None = None
        if config.worker_channel is None:
            self.metrics = CallMetrics(self.registry)
        else:
            cells = WorkerCells(worker_folder(config))
            self.metrics = CallMetrics(CollectorRegistry(), cells)
            self._link = ParentLink(config.worker_channel, str(cells.slot), self.metrics.instruments, self.registry)
        self.pools: list[ObservedPool] = []
        observe_pools(self.metrics.instruments, self.pools)
        show_identity(self.metrics.instruments, folder)
        show_children(self.metrics.instruments)
        self._watches = Watches(self.metrics.instruments)
        self.trust = TrustStore(config.trust_domain)
        # Of no version: whatever the secrets service says next replaces it.
        self._revocations = RevocationFile(config.data_dir)
        self._kept_serials = self._revocations.load()
        self.trust.update(0, self._kept_serials)
        self.policy_file = PolicyFile(config.data_dir, config.trust_dir)
        self.authorizer = self.policy_file.load()
        show_policies(self.metrics.instruments, self.authorizer)
        self._channels: dict[str, RotatingChannel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._stop = asyncio.Event()
        self.secrets: Secrets = secrets or SecretsClient(self.client("secrets", _SECRETS))
        self._audit: AuditWriter | None = None

    @classmethod
    async def start(
        cls,
        config: ServiceConfig,
        *,
        secrets: Secrets | None = None,
        obtain: Callable[[IdentityFolder], Awaitable[Identity]] | None = None,
        renewal: Callable[[Identity], Awaitable[Identity]] | None = None,
    ) -> Runtime:
        """Get an identity, load the policies, and follow both from then on.

        Args:
            config: what the service is told.
            secrets: instead of the secrets service over gRPC, inside that service itself.
            obtain: instead of enrolment by token, likewise.
            renewal: instead of renewal over gRPC, likewise.

        Raises:
            HedgerowError: the service cannot start, and why.
        """
        blocking = ObservedPool(config.worker_threads, "blocking")
        asyncio.get_running_loop().set_default_executor(blocking)
        configure_tracing(config.service, FileSpanExporter(config.data_dir / "traces.jsonl"))
        folder = IdentityFolder(config.data_dir / "identity")
        await (obtain(folder) if obtain else obtain_identity(config, folder))
        runtime = cls(config, folder, secrets)
        runtime.pools.append(blocking)
        runtime.spawn(watch_loop(runtime.metrics.instruments))
        if runtime._keeps:
            renewer = IdentityRenewer(
                folder,
                renewal or runtime._renew,
                on_failure=lambda error: log.error("renewal_failed", reason=_why(error)),
            )
            runtime.spawn(renewer.run())
        guard_forks()
        return runtime

    async def _renew(self, identity: Identity) -> Identity:
        return await renew(self.client("secrets", _SECRETS), secrets_pb2.RenewCertificateRequest)

    # ---- what services use

    def client(self, service: str, descriptor: ServiceDescriptor) -> ServiceClient:
        """Return a client of another service of the suite."""
        channel = self._channels.get(service)
        if channel is None:
            address = self.config.secrets_address if service == "secrets" else self.config.peers.get(service, "")
            if not address:
                raise UnavailableError(
                    f"no address is configured for {service}; set HEDGEROW_PEERS", metadata={"service": service}
                )
            name = f"{service}.{self.config.trust_domain}"
            channel = self._channels[service] = RotatingChannel(address, name, self.folder)
        return ServiceClient(channel, descriptor)

    async def data_key(self, name: str) -> bytes:
        """Return the 32-byte data key of this service for a use, such as ``sql``.

        It is made at the first use and kept wrapped under ``keys/{service}-{name}``.
        """
        key = f"keys/{self.config.service}-{name}"
        path = self.config.data_dir / "keys" / f"{name}.wrapped"
        if path.exists():
            return await self.patiently(lambda: self.secrets.unwrap(key, path.read_bytes()))
        plaintext, wrapped = await self.patiently(lambda: self.secrets.create_data_key(key))
        await asyncio.to_thread(write_private, path, wrapped)
        return plaintext

    def sql_path(self) -> Path:
        """Return where the service's database is."""
        return self.data_dir / f"{self.config.service}.db"

    def wait(self, coroutine: Coroutine[Any, Any, T], timeout: float = BLOCKING_SECONDS) -> T:
        """Run a coroutine from a worker thread and return its result; never call it on the event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a background task for the life of the process; one that fails is logged."""
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def on_close(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Call at shutdown, after the last call has ended; the latest registered first."""
        self._closers.append(closer)

    async def patiently(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Try until a dependency is there, for as long as a start may take."""
        deadline = self._loop.time() + START_SECONDS
        while True:
            try:
                return await attempt()
            except UnavailableError:
                if self._loop.time() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background_task_failed", error=type(error).__name__, reason=_why(error))

    # ---- audit

    async def audit(self, *, ship: Ship | None = None, report: Report | None = None) -> AuditWriter:
        """Return the audit writer of this process, started on first use.

        Args:
            ship: takes a sealed segment over; governance by default.
            report: takes the head of the trail over; governance by default.
        """
        if self._audit is None:
            to_ship, to_report = to_governance(lambda: self.client("governance", _GOVERNANCE))
            key = await self.data_key("audit")
            audit = audit_writer(self.config, key, self.secrets, ship=ship or to_ship, report=report or to_report)
            await audit.start()
            self._audit = audit
            self.on_close(audit.close)
            show_audit(self.metrics.instruments, audit)
        return self._audit

    # ---- serving

    async def serve(self, services: Sequence[Service], *, watch_policies: bool = True, watch_trust: bool = True) -> int:
        """Serve until SIGTERM or SIGINT, then drain; return the exit code.

        Args:
            services: what to serve.
            watch_policies: follow governance; False inside governance, which applies its own bundles.
            watch_trust: follow the secrets service; False inside that service.
        """
        chain = await self.chain()
        config = self.config
        server = Server(
            chain,
            services,
            self.folder,
            config.listen,
            transport=config.transport,
            lane_listen=config.lane_listen,
            shared=self._link is not None,
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._stop.set)
        await server.start()
        if self._link is None:
            self.open_metrics(self.registry)
        self.follow(policies=watch_policies, trust=watch_trust)
        await server.health.set(True)
        if self._link is not None:
            self._link.start()
        log.info("serving", services=[service.name for service in services])
        await self._stop.wait()
        await server.stop(notice=config.drain_notice_seconds, grace=config.drain_grace_seconds)
        await self.close()
        return 0

    def follow(self, *, policies: bool = True, trust: bool = True) -> None:
        """Follow governance and the secrets service from now on."""
        if policies:
            self.spawn(self._watch_policies())
        if trust:
            self.spawn(self._watch_trust())

    async def chain(self) -> Chain:
        """Return the links before each handler of this process."""
        config = self.config
        return Chain(
            trust=self.trust,
            authorizer=self.authorizer,
            audit=await self.audit(),
            metrics=self.metrics,
            tracer=Tracer(config.service, config.trace_ratio),
            limiter=RateLimiter(config.rate_per_second, config.rate_burst),
            verifier=DelegationVerifier(lambda: self._identity().roots_pem),
            signer=DelegationSigner(self._identity),
            max_calls=config.max_calls,
            default_deadline=config.default_deadline_seconds,
        )

    def _identity(self) -> Identity:
        identity = self.folder.current()
        if identity is None:
            raise UnavailableError("this service has lost its identity")
        return identity

    @property
    def _keeps(self) -> bool:
        """Whether this process keeps on disk what holds for the service: of several workers, their parent does."""
        return self.config.worker_channel is None

    @property
    def stopping(self) -> bool:
        """Whether the shutdown has begun: readiness of every kind is then false."""
        return self._stop.is_set()

    async def close(self) -> None:
        """Stop background tasks, close what was registered, then the channels."""
        for closer in reversed(self._closers):
            try:
                await closer()
            except HedgerowError as error:
                log.error("close_failed", reason=error.reason)
        for task in list(self._tasks):
            task.cancel()
        for channel in self._channels.values():
            await channel.close()

    def open_metrics(self, registry: CollectorRegistry) -> None:
        """Let a registry be scraped from now on.

        Raises:
            UnavailableError: the port cannot be bound.
        """
        config = self.config
        readers = frozenset(f"spiffe://{config.trust_domain}/{path}" for path in config.metrics_readers)
        port = MetricsPort(registry, config.metrics_listen, self._identity, self.folder.folder, self.trust, readers)
        port.open()
        self.on_close(port.close)
        self.spawn(port.rotate())

    # ---- what is followed

    async def _watch_policies(self) -> None:
        client, request = self.client("governance", _GOVERNANCE), governance_pb2.WatchPolicyBundleRequest()
        await follow(client, "WatchPolicyBundle", request, self._apply_policies, self._watches)

    async def _apply_policies(self, bundle: Any) -> None:
        if bundle.version > self.authorizer.version:
            judge = self.policy_file.keep if self._keeps else self.policy_file.judge
            kept = await asyncio.to_thread(judge, bundle)
            if kept is not None:
                self.authorizer.replace(kept)
                log.info("policy_bundle_applied", version=kept.version)

    async def _watch_trust(self) -> None:
        client, request = self.client("secrets", _SECRETS), secrets_pb2.WatchTrustRequest()
        await follow(client, "WatchTrust", request, self.apply_trust, self._watches)

    async def apply_trust(self, state: Any) -> None:
        """Take over a trust state: revocations at once, roots into the identity so that every port follows."""
        serials = frozenset(state.revoked_serials)
        self.trust.update(state.version, serials)
        if not self._keeps:
            return
        if serials != self._kept_serials:
            await asyncio.to_thread(self._revocations.keep, serials)
            self._kept_serials = serials
        identity = self._identity()
        roots = state.roots_pem.encode()
        if roots and roots.split() != identity.roots_pem.split():
            self.folder.save(Identity(identity.key_pem, identity.chain_pem, roots))
            log.info("roots_changed", version=state.version)


_SECRETS = secrets_pb2.DESCRIPTOR.services_by_name["SecretsService"]
_GOVERNANCE = governance_pb2.DESCRIPTOR.services_by_name["GovernanceService"]


def _why(error: BaseException) -> str:
    return f"{error.reason}: {error.message}" if isinstance(error, HedgerowError) else type(error).__name__


def run(config: ServiceConfig, main: Callable[[], Coroutine[Any, Any, int]]) -> None:
    """Run a service's main coroutine on uvloop and end the process with its exit code.

    A service that cannot start ends with code 3 and one line that says why.
    """
    pid = os.getpid() if config.worker_channel is not None else None  # of several workers, which one speaks
    configure_logging(config.service, level=config.log_level, pid=pid)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(main())
    except HedgerowError as error:
        log.error("cannot_start", reason=error.reason, message=error.message)
        code = EXIT_CANNOT_START
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
