"""``python -m services.secrets``: the secrets service, from configuration to drain."""

from __future__ import annotations

import asyncio
import datetime as dt
import time

from hedgerow.identity import Identity, IdentityFolder
from libs.audit import AuditEvent
from libs.config import load
from libs.rpc.delegation import DelegationSigner, DelegationVerifier
from libs.rpc.open_port import OpenChain, OpenPort
from libs.rpc.rate_limit import RateLimiter
from libs.runtime import Runtime, run
from libs.telemetry import Tracer
from services.secrets.attestation import Attestor
from services.secrets.config import SecretsConfig
from services.secrets.grants import GrantJudge
from services.secrets.issuance import Issuance
from services.secrets.keys import KeyRing
from services.secrets.local import LocalSecrets
from services.secrets.pki import CertificateAuthority
from services.secrets.self_identity import SelfIdentity
from services.secrets.service import AREA, EnrolmentServicer, SecretsServicer, enrolment_service, rpc_service
from services.secrets.service_account import ServiceAccounts
from services.secrets.trust_board import TrustBoard
from services.secrets.trust_store import TrustStore
from services.secrets.vault import Vault


def _now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


async def serve(config: SecretsConfig) -> int:
    """Run the service; return the exit code."""
    vault = Vault(config.vault_settings())
    keys = KeyRing(vault)
    authority = CertificateAuthority(
        vault, trust_domain=config.trust_domain, services=config.services, life=config.certificate_life
    )
    trust = TrustStore(vault, authority, _now)
    accounts = config.accounts()
    workloads = ServiceAccounts(vault, accounts) if accounts else None
    issuance = Issuance(authority, Attestor(vault, workloads), trust)
    board = TrustBoard(trust)
    myself = SelfIdentity(issuance, board.show, _now)

    async def obtain(folder: IdentityFolder) -> Identity:
        await asyncio.to_thread(vault.wait_until_active, config.vault_patience_seconds)
        await asyncio.to_thread(authority.reconcile)
        await board.refresh()
        return await myself.obtain(folder)

    runtime = await Runtime.start(config, secrets=LocalSecrets(keys), obtain=obtain, renewal=myself.renew)
    await board.apply_with(runtime.apply_trust)
    runtime.spawn(board.follow(config.trust_refresh_seconds))
    port = await _enrolment_port(runtime, config, issuance, board)
    await port.start()
    runtime.on_close(port.stop)
    servicer = SecretsServicer(keys, issuance, trust, board, GrantJudge(keys, frozenset(config.services), now=_now))
    try:
        return await runtime.serve([rpc_service(servicer)], watch_trust=False)
    finally:
        vault.close()


async def _enrolment_port(runtime: Runtime, config: SecretsConfig, issuance: Issuance, board: TrustBoard) -> OpenPort:
    audit = await runtime.audit()

    async def record(method: str, spiffe_id: str, request_id: str) -> None:
        await audit.append(
            AuditEvent(spiffe_id, "", f"{AREA}.{method}", (), "", "permit", (), "OK", request_id, time.time_ns())
        )

    def identity() -> Identity:
        current = runtime.folder.current()
        assert current is not None, "the runtime has obtained an identity"
        return current

    chain = OpenChain(
        trust=runtime.trust,
        authorizer=runtime.authorizer,
        audit=audit,
        metrics=runtime.metrics,
        tracer=Tracer(config.service, config.trace_ratio),
        limiter=RateLimiter(config.enrolment_rate_per_second, config.enrolment_burst),
        verifier=DelegationVerifier(lambda: identity().roots_pem),
        signer=DelegationSigner(identity),
        max_calls=int(config.enrolment_burst),
    )
    service = enrolment_service(EnrolmentServicer(issuance, board, record))
    return OpenPort(chain, service, runtime.folder, config.enrolment_address)


if __name__ == "__main__":
    settings = load(SecretsConfig)
    run(settings, lambda: serve(settings))
