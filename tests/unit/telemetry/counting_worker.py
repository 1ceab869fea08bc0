"""A worker that counts requests it is told of on standard input, one line each, and says so; see the test beside it."""

from __future__ import annotations

import sys
from pathlib import Path

from prometheus_client import CollectorRegistry

from libs.telemetry.cells import WorkerCells
from libs.telemetry.instruments import Instruments

METHODS = 5


def main(folder: str) -> None:
    """Count until the input ends or the process is killed."""
    instruments = Instruments(CollectorRegistry(), WorkerCells(Path(folder)))
    requests = instruments.counter("requests", "Requests.", ["method"])
    seconds = instruments.histogram("request_seconds", "Seconds.", bounds=[0.1, 1.0])
    memory = instruments.gauge("memory_bytes", "Memory of a worker.")
    memory.set(1024.0)
    print("ready", flush=True)
    for line in sys.stdin:
        for number in range(int(line)):
            requests.add(f"method-{number % METHODS}")
            seconds.observe(0.05)
        print("counted", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
