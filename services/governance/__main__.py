"""``python -m services.governance``: the governance service, from configuration to drain."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from hedgerow.features.v1 import features_pb2
from hedgerow.ingestion.v1 import ingestion_pb2
from libs.audit import AuditHead
from libs.audit.anchor import ANCHOR_KEYS
from libs.config import load
from libs.runtime import Runtime, run
from libs.runtime.database import open_configured
from services.governance.anchors import AnchorBook
from services.governance.bundle import PolicyBundle
from services.governance.clients import AuditKeys, eraser, signer
from services.governance.config import GovernanceConfig
from services.governance.erasure import subject_hash
from services.governance.erasure_runner import SELF, ErasureLimits, ErasureRunner
from services.governance.held_segment import ReportedHead
from services.governance.policy import PolicyAuthority
from services.governance.register_seal import RegisterSeal
from services.governance.retention import Retention
from services.governance.service import GovernanceServicer, rpc_service
from services.governance.store import ErasureStore, PolicyStore, TrailStore
from services.governance.trail import AuditTrail
from services.governance.vault import SegmentVault

POLICY_KEY = "signingKeys/governance-policy"
RECEIPTS_KEY = "signingKeys/governance-receipts"
ANCHORS_KEY = f"signingKeys/{ANCHOR_KEYS}"
MIGRATIONS = Path(__file__).parent / "migrations"


async def serve(config: GovernanceConfig) -> int:
    """Run the service; return the exit code."""
    given = _given_bundle(config.data_dir)
    runtime = await Runtime.start(config)
    secrets = runtime.secrets
    database = await open_configured(runtime, MIGRATIONS)
    vault = SegmentVault(runtime.data_dir / "segments", await runtime.data_key("trail"))
    store, keys = TrailStore(database), AuditKeys(secrets)
    anchors = AnchorBook(store, signer(secrets, ANCHORS_KEY), lambda: secrets.verification_keys(ANCHORS_KEY))
    trail = AuditTrail(store, vault, keys, anchors)
    await trail.start()
    await _audit_into(runtime, trail)
    actor = f"spiffe://{config.trust_domain}/service/{SELF}"
    retention = Retention(
        store, vault, keys, anchors, trail.unchanging, days=config.governance_retention_days, actor=actor
    )
    runtime.spawn(retention.run())

    async def apply(bundle: PolicyBundle) -> None:
        if bundle.version > runtime.authorizer.version:
            kept = await asyncio.to_thread(runtime.policy_file.keep, bundle)
            if kept is not None:
                runtime.authorizer.replace(kept)

    policies = PolicyAuthority(PolicyStore(database), signer(secrets, POLICY_KEY), apply)
    await policies.start(given, await secrets.verification_keys(POLICY_KEY))
    erasures = _erasures(runtime, config, ErasureStore(database, await _register_seal(runtime)), trail)
    erasures.counts.show(runtime.metrics.instruments)
    await erasures.resume()
    runtime.on_close(erasures.close)
    servicer = GovernanceServicer(policies, trail, erasures, seal_wait_seconds=config.seal_wait_seconds)
    try:
        return await runtime.serve([rpc_service(servicer)], watch_policies=False)
    finally:
        database.close()


def _given_bundle(data_dir: Path) -> dict[str, Any] | None:
    """Return the signed bundle that the suite was set up with, or the last one kept."""
    path = data_dir / "policy" / "bundle.json"
    if not path.exists():
        return None
    envelope: dict[str, Any] = json.loads(path.read_text())
    return envelope


async def _audit_into(runtime: Runtime, trail: AuditTrail) -> None:
    """Start this process's own audit writer, which ships to the trail without a detour."""

    async def ship(name: str, content: bytes, checkpoint: str) -> None:
        await trail.put(SELF, name.removeprefix("auditSegments/"), content, checkpoint)

    async def report(head: AuditHead) -> bool:
        owner = (head.service, head.instance)
        return await trail.report(SELF, ReportedHead.now(owner, head.sequence, head.chain_hash))

    await runtime.audit(ship=ship, report=report)


async def _register_seal(runtime: Runtime) -> RegisterSeal | None:
    """A server keeps rows in clear files; the file of its own that a service has otherwise is encrypted as a whole."""
    return RegisterSeal(await runtime.data_key("erasures")) if runtime.config.database_url else None


def _erasures(runtime: Runtime, config: GovernanceConfig, store: ErasureStore, trail: AuditTrail) -> ErasureRunner:
    async def pseudonym(domain: str, subject: str) -> str:
        return subject_hash(await runtime.secrets.pseudonym_key(domain), subject)

    parts = {"ingestion": ingestion_pb2, "features": features_pb2}
    erasers = {
        name: eraser(
            runtime.client(name, contract.DESCRIPTOR.services_by_name[f"{name.capitalize()}Service"]),
            contract.EraseSubjectRequest,
            config.erase_seconds,
        )
        for name, contract in parts.items()
    }
    return ErasureRunner(
        store,
        pseudonym=pseudonym,
        erasers=erasers,
        trail=trail,
        log_paths=config.log_dir,
        sign=signer(runtime.secrets, RECEIPTS_KEY),
        limits=ErasureLimits(config.erasures_at_once, config.erasures_waiting),
    )


if __name__ == "__main__":
    settings = load(GovernanceConfig)
    run(settings, lambda: serve(settings))
