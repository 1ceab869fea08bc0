"""How a worker and its parent speak: a pair of sockets that nobody else has.

The worker sends an empty line when it serves. From then on the parent sends empty lines, one at a time, and the worker
answers each with a line of JSON: its name, the metrics that it counts in cells (see ``libs.telemetry.cells``), and what it
reads of itself. A thread of its own answers, so that a busy event loop can be measured too.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from libs.config import ServiceConfig
from libs.telemetry import Instruments
from libs.telemetry.worker_readings import as_message

Answer = tuple[str, list[Any], list[Any]]
"""The name of a worker, the shapes of what it counts, and its readings."""
MAX_ANSWER = 8 * 1024 * 1024
_CHUNK = 64 * 1024
_PR_SET_PDEATHSIG = 1


def worker_folder(config: ServiceConfig) -> Path:
    """Return where the workers of a service count."""
    return config.data_dir / "workers"


class ParentLink:
    """The worker's end."""

    def __init__(self, channel: int, worker: str, instruments: Instruments, registry: CollectorRegistry) -> None:
        """Take the channel; from now on this process ends with its parent.

        Args:
            channel: descriptor of the socket.
            worker: what to call this one.
            instruments: what the worker counts and reads.
            registry: what else it reads.
        """
        self._socket = socket.socket(fileno=channel)
        self._worker = worker
        self._instruments = instruments
        self._registry = registry
        # Whatever ends the parent: workers without one would keep the ports, and nobody would watch them.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        with contextlib.suppress(BlockingIOError):
            if not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
                os._exit(1)  # it ended before it could have taken this process with it

    def start(self) -> None:
        """Say that this worker serves, and answer the parent from now on."""
        self._socket.sendall(b"\n")
        threading.Thread(target=self._answer, name="parent", daemon=True).start()

    def _answer(self) -> None:
        with self._socket.makefile("rb") as questions:
            for _ in questions:
                readings = as_message([*self._registry.collect(), *self._instruments.readings()])
                answer = json.dumps([self._worker, self._instruments.shapes(), readings])
                self._socket.sendall(answer.encode() + b"\n")


class WorkerLink:
    """The parent's end."""

    def __init__(self, link: socket.socket) -> None:
        link.setblocking(False)
        self._socket = link
        self._is_asked = False
        self._unread = b""

    async def serves(self) -> bool:
        """Wait until the worker serves; return False when it ended instead."""
        return bool(await asyncio.get_running_loop().sock_recv(self._socket, 1))

    def ask(self) -> Answer | None:
        """Ask what it counts and reads, without waiting; return what came too late for the scrape before.

        Raises:
            OSError: the worker is no more.
        """
        late = self.answer(time.monotonic()) if self._is_asked else None
        if not self._is_asked:
            self._socket.send(b"\n")
            self._is_asked = True
        return late

    def answer(self, deadline: float) -> Answer | None:
        """Return what it answers; None when that does not come in time.

        Args:
            deadline: of ``time.monotonic``.

        Raises:
            OSError: the worker is no more.
        """
        line = self._line(deadline)
        if line is None:
            return None
        self._is_asked = False
        worker, shapes, readings = json.loads(line)
        return worker, shapes, readings

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()

    def _line(self, deadline: float) -> bytes | None:
        while b"\n" not in self._unread:
            self._socket.settimeout(max(0.0, deadline - time.monotonic()))
            try:
                chunk = self._socket.recv(_CHUNK)
            except (TimeoutError, BlockingIOError):
                return None
            if not chunk or len(self._unread) > MAX_ANSWER:
                raise ConnectionError("the worker does not answer")
            self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line
