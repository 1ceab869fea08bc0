"""``make bench-core``: a bare grpc.aio echo, the same over mutual TLS, and the same behind the whole chain, in one run.

The figure is requests per server CPU-second: user and system time of the server's process from ``/proc``, so that the
generator, which shares the machine, does not count. Rounds alternate between the servers and medians are compared.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import uvloop

from benchmarks.core.links import link_costs
from benchmarks.core.server import PATH
from benchmarks.report import Check, write
from hedgerow.channel import secure_channel
from hedgerow.identity import IdentityFolder

CONNECTIONS, IN_FLIGHT = 8, 2
WARM_SECONDS, SECONDS, ROUNDS = 1.0, 3.0, 5
TICKS = os.sysconf("SC_CLK_TCK")
# Distinct bodies of the size of a small prediction: a BytesValue of 160 bytes.
BODIES = [b"\x0a\xa0\x01" + os.urandom(160) for _ in range(256)]


@dataclass
class Window:
    """One measured window."""

    requests: int
    seconds: float
    server_cpu: float
    generator_cpu: float

    @property
    def per_cpu_second(self) -> float:
        """Requests per server CPU-second."""
        return self.requests / self.server_cpu


def cpu_seconds(pid: int) -> float:
    """Return user and system CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def server(kind: str, folder: Path) -> Iterator[tuple[int, int]]:
    """Run a server of a kind and yield its port and pid."""
    command = [sys.executable, "-m", "benchmarks.core.server", kind, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if len(line) != 2:
            raise RuntimeError(f"the {kind} server did not start")
        yield int(line[0]), int(line[1])
    finally:
        process.kill()
        process.wait()


def _channels(kind: str, port: int, folder: Path) -> list[grpc.aio.Channel]:
    target = f"127.0.0.1:{port}"
    if kind == "bare":
        options = [("grpc.use_local_subchannel_pool", 1)]
        return [grpc.aio.insecure_channel(target, options=options) for _ in range(CONNECTIONS)]  # the bare peer
    identity = IdentityFolder(folder).load()
    assert identity is not None
    return [secure_channel(target, "ingestion.hedgerow.local", identity) for _ in range(CONNECTIONS)]


async def measure(kind: str, port: int, pid: int, folder: Path) -> Window:
    """Load a server and return the window after the warm-up."""
    channels = _channels(kind, port, folder)
    bodies = itertools.cycle(BODIES)
    count, running = 0, True

    async def caller(call: Any) -> None:
        nonlocal count
        while running:
            body = next(bodies)
            if await call(body, timeout=10) != body:
                raise RuntimeError("the echo is not what was sent")
            count += 1

    callers = [asyncio.create_task(caller(c.unary_unary(PATH))) for c in channels for _ in range(IN_FLIGHT)]
    await asyncio.sleep(WARM_SECONDS)
    before, cpu, own, begun = count, cpu_seconds(pid), time.process_time(), time.perf_counter()
    await asyncio.sleep(SECONDS)
    window = Window(count - before, time.perf_counter() - begun, cpu_seconds(pid) - cpu, time.process_time() - own)
    running = False
    await asyncio.gather(*callers)
    for channel in channels:
        await channel.close()
    return window


def main() -> None:
    """Measure, print a table and write ``var/bench/core.json``."""
    windows: dict[str, list[Window]] = {"bare": [], "tls": [], "chain": []}
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp) / "client"
        for number in range(ROUNDS):
            for kind, kept in windows.items():
                with server(kind, folder) as (port, pid), asyncio.Runner(loop_factory=uvloop.new_event_loop) as run:
                    kept.append(run.run(measure(kind, port, pid, folder)))
                print(
                    f"round {number + 1}/{ROUNDS} {kind:6} {kept[-1].per_cpu_second:9,.0f} requests/CPU-s", flush=True
                )
        links = asyncio.run(link_costs(Path(tmp)))
    rate = {kind: statistics.median(w.per_cpu_second for w in kept) for kind, kept in windows.items()}
    print(f"\n{'link':34}{'µs a call':>10}")
    for name, cost in links.items():
        print(f"{name:34}{cost:10.2f}")
    print(f"{'mutual TLS (over bare, per CPU)':34}{1e6 / rate['tls'] - 1e6 / rate['bare']:10.2f}")
    print(f"{'whole chain (over mutual TLS)':34}{1e6 / rate['chain'] - 1e6 / rate['tls']:10.2f}\n")
    generator = {k: statistics.median(w.generator_cpu / w.seconds for w in kept) for k, kept in windows.items()}
    checks = [
        Check("chain_over_bare_ratio", rate["chain"] / rate["bare"], "ratio", ">=", 0.6),
        Check("chain_requests_per_cpu_s", rate["chain"], "1/CPU-s", ">=", 0.6 * rate["bare"]),
    ]
    details = {
        "callers": CONNECTIONS * IN_FLIGHT,
        "rates_per_cpu_s": rate,
        "spread_per_cpu_s": {
            k: [min(w.per_cpu_second for w in v), max(w.per_cpu_second for w in v)] for k, v in windows.items()
        },
        "rates_per_s": {k: statistics.median(w.requests / w.seconds for w in v) for k, v in windows.items()},
        "generator_cores": generator,
        "links_us": links,
    }
    write("core", checks, details)


if __name__ == "__main__":
    main()
