"""``python -m libs.runtime.keep_identity``: an identity for a program that is no service of the suite, such as Prometheus.

It enrols once, with a token like any service, and renews for ever, so that the program beside it finds ``identity.pem``
(key and certificates) and ``roots.pem`` always good. The secrets service must know the name: ``HEDGEROW_SERVICES``.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal

from pydantic import Field

from hedgerow.channel import RotatingChannel
from hedgerow.client import ServiceClient, renew
from hedgerow.identity import Identity, IdentityFolder, IdentityRenewer
from hedgerow.secrets.v1 import secrets_pb2
from libs.config import ServiceConfig, load
from libs.runtime.enrolment import obtain_identity
from libs.runtime.runtime import run
from libs.telemetry import get_logger

log = get_logger()


class KeepConfig(ServiceConfig):
    """Read from ``HEDGEROW_…`` variables; ``HEDGEROW_SERVICE`` is the name to hold."""

    listen: str = Field(default="", description="Not used: nothing listens.")


async def keep(config: KeepConfig) -> int:
    """Hold the identity until SIGTERM or SIGINT; return the exit code.

    Raises:
        HedgerowError: it cannot be obtained, and why.
    """
    task = asyncio.create_task(_hold(config))
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return 0


async def _hold(config: KeepConfig) -> None:
    folder = IdentityFolder(config.data_dir / "identity")
    await obtain_identity(config, folder)
    channel = RotatingChannel(config.secrets_address, f"secrets.{config.trust_domain}", folder)
    client = ServiceClient(channel, secrets_pb2.DESCRIPTOR.services_by_name["SecretsService"])

    async def renewal(identity: Identity) -> Identity:
        return await renew(client, secrets_pb2.RenewCertificateRequest)

    def report(error: Exception) -> None:
        log.error("renewal_failed", error=type(error).__name__)

    try:
        await IdentityRenewer(folder, renewal, on_failure=report).run()
    finally:
        await channel.close()


if __name__ == "__main__":
    settings = load(KeepConfig)
    run(settings, lambda: keep(settings))
