"""A service, such as ``python -m services.inference``, as a process of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import random
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hedgerow.client import ServiceClient
from hedgerow.errors import UnavailableError
from hedgerow.identity import Identity
from tests.support.authority import Authority, folder
from tests.support.serving import project_bundle

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60.0


def free_port() -> int:
    """Return a port that was free a moment ago, below those that outgoing connections take for themselves."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for _ in range(100):
        port = random.randrange(10_000, min(first_outgoing, 65_000))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


class Process:
    """The service as a process of its own, with the folders that the supervisor would have made."""

    def __init__(
        self,
        tmp: Path,
        authority: Authority,
        peers: dict[str, str],
        secrets: str,
        identity: Identity | None = None,
        service: str = "inference",
        **variables: str,
    ) -> None:
        self.service, self.data_dir = service, tmp / "var"
        self.port = free_port()
        folder(self.data_dir / "identity", identity or authority.service(service))
        trust = tmp / "trust"
        trust.mkdir()
        signer = Ed25519PrivateKey.generate()
        (trust / "policy-keys.json").write_text(
            json.dumps({"1": base64.b64encode(signer.public_key().public_bytes_raw()).decode()})
        )
        content = project_bundle()
        (self.data_dir / "policy").mkdir()
        envelope = {
            "content": base64.b64encode(content).decode(),
            "signature": base64.b64encode(signer.sign(content)).decode(),
            "key_version": 1,
        }
        (self.data_dir / "policy" / "bundle.json").write_text(json.dumps(envelope))
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HEDGEROW_")},
            "HEDGEROW_SERVICE": service,
            "HEDGEROW_LISTEN": f"127.0.0.1:{self.port}",
            "HEDGEROW_DATA_DIR": str(self.data_dir),
            "HEDGEROW_TRUST_DIR": str(trust),
            "HEDGEROW_SECRETS_ADDRESS": secrets,
            "HEDGEROW_PEERS": json.dumps(peers),
            **variables,
        }
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with (self.data_dir / "process.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", f"services.{self.service}", cwd=REPOSITORY, env=self.environment, stderr=log
            )

    async def end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


async def until_answered(client: ServiceClient, method: str, request: Any) -> Any:
    deadline = asyncio.get_running_loop().time() + START_SECONDS
    while True:
        try:
            return await client.call(method, request, timeout=5.0, purpose="credit_risk")
        except UnavailableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(0.1)
