"""The shared stores of the distributed profile as units: PostgreSQL, Valkey and SeaweedFS on this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hedgerow.private_file import write_private
from suite.backing import Backing, TlsFiles
from suite.bootstrap_ca import BootstrapFolder
from suite.config import DISTRIBUTED, SuiteConfig
from suite.unit import Unit

_TIER = 0


class Stores:
    """Builds the units of the stores, and tells each service how it reaches them; empty in the embedded profile."""

    def __init__(self, config: SuiteConfig, bootstrap: BootstrapFolder, certify: Callable[[], Awaitable[None]]) -> None:
        """Name the parts.

        Args:
            config: of the suite.
            bootstrap: who certifies the stores.
            certify: makes the certificates, before a store starts.
        """
        self._config = config
        self._certify = certify
        self._bootstrap = bootstrap
        # A copy, because services have no business in the folder of the bootstrap CA.
        self._tls = TlsFiles(*bootstrap.certificate("stores"), config.folder / "trust" / "stores-ca.pem")
        made = _stores(config, self._tls) if config.profile == DISTRIBUTED else ()
        self._stores = {store.name: store for store in made}

    def units(self) -> list[Unit]:
        """Return the units in the order of their start."""
        return [self._unit(store) for store in self._stores.values()]

    def used_by(self, service: str) -> list[str]:
        """Return the stores that a service needs to start."""
        return [name for name, store in self._stores.items() if store.service_environment(service)]

    def environment(self, service: str) -> dict[str, str]:
        """Return the variables with which a service reaches its stores."""
        return {
            variable: value
            for store in self._stores.values()
            for variable, value in store.service_environment(service).items()
        }

    def __contains__(self, name: str) -> bool:
        """Whether that is a store."""
        return name in self._stores

    async def health(self, name: str) -> str:
        """Return ``active`` or ``unreachable``."""
        return "active" if await asyncio.to_thread(self._stores[name].is_healthy) else "unreachable"

    def _unit(self, store: Backing) -> Unit:
        async def prepare(attempt: int) -> None:
            await self._certify()
            self._tls.ca.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_private(self._tls.ca, self._bootstrap.ca_file.read_bytes())
            await asyncio.to_thread(store.prepare)

        async def healthy() -> bool:
            return await asyncio.to_thread(store.is_healthy)

        return Unit(
            name=store.name,
            command=store.command(),
            environment=store.environment(),
            healthy=healthy,
            log=self._config.folder / "logs" / f"{store.name}.log",
            tier=_TIER,
            prepare=prepare,
            ports=store.ports,
        )


def _stores(config: SuiteConfig, tls: TlsFiles) -> tuple[Backing, ...]:
    # Late: the embedded profile needs none of their programs.
    from suite.backing.postgres import Postgres
    from suite.backing.seaweedfs import SeaweedFS
    from suite.backing.valkey import Valkey

    folder, ports = config.folder, config.ports
    return (
        Postgres(folder / "postgres", ports["postgres"], tls),
        Valkey(folder / "valkey", ports["valkey"], tls),
        SeaweedFS(folder / "seaweedfs", ports["seaweedfs"], tls),
    )
