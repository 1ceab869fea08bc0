"""A real server with the whole chain over loopback and mutual TLS, for tests and benchmarks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import ServiceDescriptor
from prometheus_client import CollectorRegistry

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient
from hedgerow.identity import Identity, IdentityFolder
from libs.audit import AuditEvent
from libs.authz import Authorizer, compile_bundle, encode_bundle
from libs.identity.trust import TrustStore
from libs.rpc.chain import Chain
from libs.rpc.delegation import DelegationSigner, DelegationVerifier
from libs.rpc.rate_limit import RateLimiter
from libs.rpc.server import Server
from libs.rpc.service import Service
from libs.telemetry import CallMetrics, Tracer
from tests.support.audit import RecordingWriter, audit_writer
from tests.support.authority import DOMAIN, Authority, folder

# What carries the calls where a test does not say; suites that hold for both transports run once with each.
TRANSPORT = "aio"
# ``host:port`` of a second port on the fast lane for servers that a test starts, or none.
LANE_LISTEN = ""
POLICIES = Path(__file__).parents[2] / "deploy" / "policies"


def project_bundle() -> bytes:
    """Return the bundle of ``deploy/policies``, as the suite starts with it."""
    import json

    source = "\n".join(path.read_text() for path in sorted(POLICIES.glob("*.cedar")))
    return encode_bundle(1, source, json.loads((POLICIES / "principals.json").read_text()))


@dataclass
class Served:
    """A running server and what is around it."""

    authority: Authority
    server: Server
    chain: Chain
    trust: TrustStore
    registry: CollectorRegistry
    audit: RecordingWriter
    folder: IdentityFolder
    name: str
    tmp: Path
    channels: list[RotatingChannel] = field(default_factory=list)
    on_lane: bool = False

    @property
    def events(self) -> list[AuditEvent]:
        """Audit events so far."""
        return self.audit.events

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The number of the port to call."""
        return self.server.lane_port if self.on_lane else self.server.port

    def channel(self, identity: Identity) -> RotatingChannel:
        """Return a channel that presents an identity."""
        kept = folder(self.tmp / f"client-{len(self.channels)}", identity)
        channel = RotatingChannel(self.target, f"{self.name}.{DOMAIN}", kept)
        self.channels.append(channel)
        return channel

    def client(self, identity: Identity, descriptor: ServiceDescriptor) -> ServiceClient:
        """Return a client that presents an identity."""
        return ServiceClient(self.channel(identity), descriptor)


@contextlib.asynccontextmanager
async def serving(
    tmp: Path,
    services: Sequence[Service],
    *,
    name: str = "ingestion",
    authority: Authority | None = None,
    bundle: bytes | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """Serve until the block ends.

    Args:
        tmp: folder for identities and audit segments.
        services: what to serve.
        name: the service whose identity the server has.
        authority: who issues certificates.
        bundle: policy bundle content; the project's own by default.
        options: ``max_calls``, ``default_deadline``, ``limiter``, ``ratio`` or ``transport``.
    """
    authority = authority or Authority()
    kept = folder(tmp / "server", authority.service(name))
    identity = kept.current()
    assert identity is not None
    trust, registry = TrustStore(DOMAIN), CollectorRegistry()
    limiter = options.pop("limiter", RateLimiter(1e6, 1e6))
    ratio = options.pop("ratio", 0.0)
    transport = options.pop("transport", TRANSPORT)
    async with audit_writer(tmp / "audit", service=name, kind=RecordingWriter) as audit:
        chain = Chain(
            trust=trust,
            authorizer=Authorizer(compile_bundle(bundle or project_bundle())),
            audit=audit,
            metrics=CallMetrics(registry),
            tracer=Tracer(name, ratio),
            limiter=limiter,
            verifier=DelegationVerifier(lambda: authority.roots_pem),
            signer=DelegationSigner(lambda: kept.current() or identity),
            **options,
        )
        server = Server(chain, services, kept, "127.0.0.1:0", transport=transport, lane_listen=LANE_LISTEN)
        await server.start()
        await server.health.set(True)
        assert isinstance(audit, RecordingWriter)
        served = Served(authority, server, chain, trust, registry, audit, kept, name, tmp)
        try:
            yield served
        finally:
            for channel in served.channels:
                await channel.close()
            await server.stop(notice=0, grace=1)
