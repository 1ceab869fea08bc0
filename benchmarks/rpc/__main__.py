"""``make bench-rpc``: both transports in one run, bare and over mutual TLS and behind the whole chain.

The figure is calls (or messages of streams) per server CPU-second, as in ``benchmarks.core``. Rounds alternate between the
servers and medians are compared. ``python -m benchmarks.rpc SECONDS ROUNDS`` runs shorter or longer ones.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.core.__main__ import cpu_seconds
from benchmarks.core.links import link_costs
from benchmarks.report import Check, write
from benchmarks.rpc.client import Load, bodies, connect
from benchmarks.rpc.server import BOTH, ECHO
from tests.support.h2_peer import client_context

SMALL = 160
CALLERS = {1: (1, 1), 16: (8, 2), 64: (16, 4)}
STREAM_MESSAGES = 64
STORM = 400
WARM_SECONDS = 0.5


@dataclass
class Server:
    """A server in a process of its own."""

    transport: str
    kind: str
    port: int
    process: subprocess.Popen[str]
    folder: Path
    context: ssl.SSLContext | None

    def answered(self) -> int:
        """What its own counter says."""
        self.process.send_signal(signal.SIGUSR1)
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@contextmanager
def server(transport: str, kind: str, tmp: Path, port: int = 0) -> Iterator[Server]:
    """Run a server."""
    folder = tmp / f"{transport}-{kind}-{port}"
    command = [sys.executable, "-m", "benchmarks.rpc.server", transport, kind, str(folder), str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if len(line) != 2:
            raise RuntimeError(f"the {transport} {kind} server did not start")
        yield Server(
            transport, kind, int(line[0]), process, folder, None if kind == "plain" else client_context(folder)
        )
    finally:
        process.kill()
        process.wait()


@dataclass
class Window:
    """One measured window."""

    calls: int
    per_cpu_second: float
    per_second: float
    p50_ms: float
    p99_ms: float
    mismatch: int


async def measure(
    target: Server, load: Load, callers: int, seconds: float, storm: int = 0, beside: Server | None = None
) -> Window:
    """Load a server, or two that share its port, and return the window after the warm-up."""
    servers = [target, beside] if beside else [target]
    connections, streams = CALLERS[callers]
    before_all = sum(one.answered() for one in servers)
    opened = [await connect(target.port, target.context, load, streams) for _ in range(connections)]
    await asyncio.sleep(WARM_SECONDS)
    calls, at, cpu = load.calls, len(load.seconds), sum(cpu_seconds(one.process.pid) for one in servers)
    begun = asyncio.get_running_loop().time()
    if storm:
        # In a process of its own: a loop that shakes hands cannot time calls.
        command = [sys.executable, "-m", "benchmarks.rpc.storm", str(target.port), str(target.folder), str(storm)]
        process = await asyncio.create_subprocess_exec(*command)
        if await process.wait():
            raise RuntimeError("a call of the storm failed")
    await asyncio.sleep(max(0.0, seconds - (asyncio.get_running_loop().time() - begun)))
    done, took = load.calls - calls, asyncio.get_running_loop().time() - begun
    used = sum(cpu_seconds(one.process.pid) for one in servers) - cpu
    load.running = False
    for connection in opened:
        await asyncio.wait_for(connection.idle.wait(), 30)
        connection.close()
    if load.failures:
        raise RuntimeError(f"{load.failures} answers were not what was sent")
    latencies = sorted(load.seconds[at : at + done]) or [0.0]
    answered = sum(one.answered() for one in servers) - before_all
    mismatch = abs(answered - load.calls * load.messages) if not storm else 0
    return Window(
        done,
        done * load.messages / max(used, 0.01),
        done * load.messages / took,
        latencies[len(latencies) // 2] * 1e3,
        latencies[int(len(latencies) * 0.99)] * 1e3,
        mismatch,
    )


class Rounds:
    """Windows by name, of both transports by turns."""

    def __init__(self, tmp: Path, seconds: float, rounds: int) -> None:
        self._tmp, self._seconds, self._rounds = tmp, seconds, rounds
        self.windows: dict[str, list[Window]] = {}

    def compare(self, name: str, kind: str, callers: int, size: int, *, messages: int = 1, fixed: bool = False) -> None:
        """Measure both transports at one kind of load."""
        sent = bodies(size)
        with ExitStack() as stack:
            servers = [stack.enter_context(server(transport, kind, self._tmp)) for transport in ("aio", "lane")]
            for _, target in itertools.product(range(self._rounds), servers):
                load = Load(BOTH if messages > 1 else ECHO, sent, messages, fixed)
                self._keep(f"{target.transport} {name}", measure(target, load, callers, self._seconds))

    def _keep(self, name: str, run: Coroutine[Any, Any, Window]) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            window = runner.run(run)
        self.windows.setdefault(name, []).append(window)
        print(f"{name:28}{window.per_cpu_second:11,.0f} /CPU-s {window.per_second:11,.0f} /s"
              f"   p50 {window.p50_ms:7.2f} p99 {window.p99_ms:7.2f} ms", flush=True)  # fmt: skip

    def storm(self) -> None:
        """Measure steady load on the lane with and without new connections beside it."""
        with server("lane", "tls", self._tmp) as target:
            for _ in range(self._rounds):
                for name, count in (("lane steady", 0), ("lane storm", STORM)):
                    load = Load(ECHO, bodies(SMALL))
                    self._keep(name, measure(target, load, 16, self._seconds, count))

    def two_processes(self) -> None:
        """Measure the lane in one process and in two that share a port, by requests a second."""
        with _reserved() as port, server("lane", "plain", self._tmp, port) as first:
            for _ in range(self._rounds):
                self._keep("lane one_process", measure(first, Load(ECHO, bodies(SMALL)), 64, self._seconds))
                with server("lane", "plain", self._tmp / "second", port) as second:
                    run = measure(first, Load(ECHO, bodies(SMALL)), 64, self._seconds, beside=second)
                    self._keep("lane two_processes", run)

    def median(self, name: str, what: str = "per_cpu_second") -> float:
        """Return the median of a figure."""
        return float(statistics.median(getattr(window, what) for window in self.windows[name]))

    def ratio(self, name: str) -> float:
        """Return the lane's figure over that of ``grpc.aio``."""
        return self.median(f"lane {name}") / self.median(f"aio {name}")


@contextmanager
def _reserved() -> Iterator[int]:
    """Keep a free port for servers that share it."""
    with socket.socket() as kept:
        kept.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


def main() -> None:
    """Measure, and write ``var/bench/rpc.json``."""
    seconds, count = float((sys.argv[1:] or ["3"])[0]), int((sys.argv[2:] or ["3"])[0])
    with tempfile.TemporaryDirectory() as tmp:
        rounds = Rounds(Path(tmp), seconds, count)
        for callers in CALLERS:
            rounds.compare(f"bare_c{callers}", "plain", callers, SMALL)
        rounds.compare("bare_fixed_c16", "plain", 16, SMALL, fixed=True)
        rounds.compare("tls_c16", "tls", 16, SMALL)
        rounds.compare("chain_c16", "chain", 16, SMALL)
        rounds.compare("stream_c16", "plain", 16, SMALL, messages=STREAM_MESSAGES)
        rounds.compare("large_49k", "tls", 16, 49_000)
        rounds.compare("large_1m", "tls", 1, 1_000_000)
        rounds.storm()
        rounds.two_processes()
        links = asyncio.run(link_costs(Path(tmp)))
    print(f"\n{'link of the chain, called alone':40}{'µs a call':>10}")
    for name, cost in links.items():
        print(f"{name:40}{cost:10.2f}")
    for before, after, what in (("bare_c16", "tls_c16", "mutual TLS"), ("tls_c16", "chain_c16", "whole chain")):
        spent = 1e6 / rounds.median(f"lane {after}") - 1e6 / rounds.median(f"lane {before}")
        links[f"{what}, in the server"] = spent
        print(f"{what + ', in the server':40}{spent:10.2f}")
    print()
    share = rounds.median("lane two_processes", "per_second") / rounds.median("lane one_process", "per_second")
    print(f"two_process_ratio: {share:.2f} (with one generator on {os.cpu_count()} processors; not a check)")
    mismatches = sum(window.mismatch for windows in rounds.windows.values() for window in windows)
    checks = [
        Check("bare_ratio_c1", rounds.ratio("bare_c1"), "ratio", ">=", 5),
        Check("bare_ratio_c16", rounds.ratio("bare_c16"), "ratio", ">=", 10),
        Check("bare_ratio_c64", rounds.ratio("bare_c64"), "ratio", ">=", 10),
        Check("chain_requests_per_cpu_s_c16", rounds.median("lane chain_c16"), "1/CPU-s", ">=", 40_000),
        Check("chain_ratio_c16", rounds.ratio("chain_c16"), "ratio", ">=", 5),
        Check("stream_ratio", rounds.ratio("stream_c16"), "ratio", ">=", 3),
        Check("large_49k_ratio", rounds.ratio("large_49k"), "ratio", ">=", 1),
        Check("large_1m_ratio", rounds.ratio("large_1m"), "ratio", ">=", 1),
        Check(
            "storm_p99_ratio",
            rounds.median("lane storm", "p99_ms") / rounds.median("lane steady", "p99_ms"), "ratio", "<=", 2,
        ),
        Check("counter_mismatch", mismatches, "calls", "==", 0),
    ]  # fmt: skip
    details = {
        "cpus": os.cpu_count(),
        "seconds": seconds,
        "links_us": links,
        "two_process_ratio": share,
        "fixed_over_distinct_c16": rounds.median("lane bare_fixed_c16") / rounds.median("lane bare_c16"),
        "windows": {name: [vars(window) for window in windows] for name, windows in rounds.windows.items()},
    }
    write("rpc", checks, details)


if __name__ == "__main__":
    main()
