"""The units of the suite on this machine: OpenBao, the stores of the distributed profile, and the six services."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from services.secrets.vault import Vault, VaultSettings
from suite.bootstrap_ca import BootstrapFolder
from suite.config import DISTRIBUTED, REPLICATED, SERVICES, SuiteConfig, service_of
from suite.health import OperatorHealth
from suite.openbao import OpenBao
from suite.provision import Provisioner
from suite.stores import Stores
from suite.unit import Unit, UnitError

ROOT = Path(__file__).resolve().parent.parent
OPENBAO = "openbao"
# Active, yet without what self-initialisation makes last: a first start was interrupted here.
UNPROVEN_SECONDS = 5.0
_TIERS = {OPENBAO: 0, "secrets": 1, "governance": 2}
_WORKER_TIER = 3


class LocalSuite:
    """Builds the units and holds what they share."""

    def __init__(self, config: SuiteConfig) -> None:
        self._config = config
        self._bootstrap = BootstrapFolder(config.folder / "bootstrap", config.trust_domain)
        self._certifying = asyncio.Lock()
        self.openbao = OpenBao(
            config.folder / OPENBAO,
            self._bootstrap,
            port=config.ports["openbao"],
            cluster_port=config.ports["openbao_cluster"],
        )
        self.health = OperatorHealth(config, config.folder / "run" / "identity")
        self.stores = Stores(config, self._bootstrap, self._certify)
        self._vault = Vault(self._settings("supervisor"))
        self._provisioner = Provisioner(config, self._vault)
        self._active_since = 0.0

    def units(self) -> list[Unit]:
        """Return the units in the order of their start."""
        services = [self._service(instance) for instance in self._config.instances]
        return [*([] if self._config.vault else [self._openbao()]), *self.stores.units(), *services]

    async def close(self) -> None:
        """Close what was opened."""
        await self.health.close()
        self._vault.close()

    def _settings(self, who: str) -> VaultSettings:
        """How ``secrets`` or ``supervisor`` reaches the secret server."""
        vault = self._config.vault
        if vault is None:
            return self.openbao.settings(who)
        files = {
            "secrets": (vault.secrets_cert_file, vault.secrets_key_file),
            "supervisor": (vault.supervisor_cert_file, vault.supervisor_key_file),
        }
        return VaultSettings(vault.address, vault.ca_file, *files[who], role=f"hedgerow-{who}")

    # ---- OpenBao

    def _openbao(self) -> Unit:
        return Unit(
            name=OPENBAO,
            command=self.openbao.command(),
            folder=self.openbao.folder,
            environment={"PATH": os.environ.get("PATH", ""), "HOME": str(self._config.folder)},
            healthy=self._openbao_serves,
            log=self._log(OPENBAO),
            tier=_TIERS[OPENBAO],
            prepare=self._prepare_openbao,
            upkeep=self.openbao.turn_over_audit,
            ports={"api": self._config.ports["openbao"], "cluster": self._config.ports["openbao_cluster"]},
        )

    async def _prepare_openbao(self, attempt: int) -> None:
        self._active_since = 0.0
        if attempt > 1 and not self.openbao.is_proven:
            # It was given one chance to prove that its first start had completed.
            await asyncio.to_thread(self.openbao.remove_incomplete)
        await self._certify()
        await asyncio.to_thread(self.openbao.prepare)

    async def _certify(self) -> None:
        """Make the bootstrap CA and its certificates; what starts at the same time makes them once."""
        async with self._certifying:
            await asyncio.to_thread(self._bootstrap.ensure)

    async def _openbao_serves(self) -> bool:
        state = await asyncio.to_thread(self.openbao.state)
        if state != "active":
            return False
        if await asyncio.to_thread(self.openbao.prove):
            return True
        self._active_since = self._active_since or time.monotonic()
        if time.monotonic() - self._active_since > UNPROVEN_SECONDS:
            raise UnitError("its first start was interrupted before it completed; it is made afresh")
        return False

    # ---- services

    def _service(self, instance: str) -> Unit:
        name = service_of(instance)
        ports = {"grpc": self._config.port(instance), "metrics": self._config.metrics_port(instance)}
        if name == "secrets":
            ports["enrolment"] = self._config.ports["enrolment"]
        first = [] if self._config.vault else [OPENBAO]
        return Unit(
            name=instance,
            command=[sys.executable, "-m", f"services.{name}"],
            environment=self._environment(instance),
            healthy=self._serves(instance),
            log=self._log(instance),
            # A service needs its identity, keys and stores, and nothing else, to start: it keeps the last policies it knew.
            after=first if name == "secrets" else ["secrets", *self.stores.used_by(name)],
            tier=_TIERS.get(name, _WORKER_TIER),
            prepare=self._prepare_secrets if name == "secrets" else self._prepare(instance),
            ports=ports,
        )

    def _serves(self, instance: str) -> Callable[[], Awaitable[bool]]:
        async def serves() -> bool:
            return await self.health.check(instance) == "SERVING"

        return serves

    def _prepare(self, instance: str) -> Callable[[int], Awaitable[None]]:
        async def prepare(attempt: int) -> None:
            await asyncio.to_thread(self._provisioner.enrolment_token, instance, dt.datetime.now(dt.UTC))

        return prepare

    async def _prepare_secrets(self, attempt: int) -> None:
        if attempt == 1:
            await asyncio.to_thread(self._provisioner.prepare)

    def _environment(self, instance: str) -> dict[str, str]:
        config, name = self._config, service_of(instance)
        variables = {
            "HEDGEROW_SERVICE": name,
            "HEDGEROW_LISTEN": f"127.0.0.1:{config.port(instance)}",
            "HEDGEROW_METRICS_LISTEN": f"127.0.0.1:{config.metrics_port(instance)}",
            "HEDGEROW_DATA_DIR": str(config.service_folder(instance)),
            "HEDGEROW_TRUST_DIR": str(config.folder / "trust"),
            "HEDGEROW_TRUST_DOMAIN": config.trust_domain,
            "HEDGEROW_SECRETS_ADDRESS": config.address("secrets"),
            "HEDGEROW_ENROLMENT_ADDRESS": config.address("enrolment"),
            "HEDGEROW_PEERS": json.dumps({peer: config.address(peer) for peer in SERVICES}),
        }
        if name == "secrets":
            vault = self._settings("secrets")
            variables |= {
                "HEDGEROW_VAULT_ADDRESS": vault.address,
                "HEDGEROW_VAULT_CA_FILE": vault.ca_file,
                "HEDGEROW_VAULT_CERT_FILE": vault.cert_file,
                "HEDGEROW_VAULT_KEY_FILE": vault.key_file,
            }
        else:
            if name == "governance":
                # An erasure searches the logs and traces too.
                traces = (config.service_folder(each) / "traces.jsonl" for each in config.instances)
                variables["HEDGEROW_LOG_DIR"] = os.pathsep.join(map(str, (config.folder / "logs", *traces)))
            variables["HEDGEROW_ENROLMENT_TOKEN_FILE"] = str(config.folder / "run" / "tokens" / instance)
        if config.profile == DISTRIBUTED and name in REPLICATED:
            variables["HEDGEROW_SHARED_DIR"] = str(config.shared_folder(name))
        elif name == "features":
            # A number of workers in our own environment is for inference here: LMDB has one.
            variables["HEDGEROW_WORKERS"] = "1"
        python_path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        stores = self.stores.environment(name)
        return {**os.environ, "PYTHONPATH": python_path, **stores, **config.environment, **variables}

    def _log(self, name: str) -> Path:
        return self._config.folder / "logs" / f"{name}.log"
