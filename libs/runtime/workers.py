"""A service as several worker processes that share its ports, and the parent that keeps them going.

- The parent gets the identity and renews it, follows policies and trust and keeps them on disk, holds the numbers of the
  ports, and serves the metrics of all. It answers no call.
- A worker is the same program again, with a channel to its parent. It serves with a loop, an audit chain and limits of its
  own, and follows policies and revocations itself; the identity it finds where the parent keeps it.
- The first worker starts alone, because it may have to make keys and tables. When it serves, the others start.
- A worker that ends is started again after a pause, and the others go on. If none gets to serve, the service has not
  started.
- SIGTERM drains all of them. Whatever ends the parent ends its workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry

from hedgerow.errors import FailedPreconditionError, UnavailableError
from libs.config import ServiceConfig
from libs.runtime.runtime import Runtime
from libs.runtime.worker_link import WorkerLink, worker_folder
from libs.runtime.worker_scrape import WorkersScrape
from libs.telemetry import get_logger

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 30.0
STEADY_SECONDS = 60.0
CLOSING_SECONDS = 15.0
EXIT_UNCLEAN: Final = 1
log = get_logger()


async def by_workers(config: ServiceConfig, main: Callable[[], Awaitable[int]]) -> int:
    """Run a service in this process, or in as many workers as configured; return the exit code.

    Args:
        config: of the service.
        main: serves in this process.

    Raises:
        HedgerowError: the service cannot start, and why.
    """
    if config.workers == 1 or config.worker_channel is not None:
        return await main()
    return await Parent(config).run()


class Parent:
    """Keeps the workers of a service."""

    def __init__(self, config: ServiceConfig) -> None:
        self._config = config
        self._scrape = WorkersScrape(worker_folder(config), config.workers)
        # Without the token: only the parent enrols.
        self._environment = {k: v for k, v in os.environ.items() if k != "HEDGEROW_ENROLMENT_TOKEN_FILE"}
        self._has_served = False
        self._begun = asyncio.Event()  # a worker serves, or none will
        self._stop = asyncio.Event()
        self._code = 0

    async def run(self) -> int:
        """Serve until SIGTERM or SIGINT, then drain; return the exit code.

        Raises:
            HedgerowError: the service cannot start, and why.
        """
        config = self._config
        with contextlib.ExitStack() as held:
            held.enter_context(_only_parent(config))
            runtime = await Runtime.start(config)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, self._end)
            try:
                self._environment["HEDGEROW_LISTEN"] = held.enter_context(_held_port(config.listen))
                if config.lane_listen:
                    self._environment["HEDGEROW_LANE_LISTEN"] = held.enter_context(_held_port(config.lane_listen))
                registry = CollectorRegistry()
                registry.register(self._scrape)
                self._scrape.show_parent(runtime.metrics.instruments)
                runtime.open_metrics(registry)
                runtime.follow()
                async with asyncio.TaskGroup() as workers:
                    workers.create_task(self._keep(0))
                    await self._begun.wait()
                    for index in range(1, config.workers):
                        workers.create_task(self._keep(index))
            finally:
                await runtime.close()
        return self._code

    def _end(self, code: int = 0) -> None:
        self._code = self._code or code
        self._stop.set()
        self._begun.set()

    async def _keep(self, index: int) -> None:
        """Have a worker until the end, started again whenever it ends."""
        pause, clock = FIRST_PAUSE_SECONDS, asyncio.get_running_loop()
        while not self._stop.is_set():
            begun = clock.time()
            code = await self._live()
            if self._stop.is_set():
                return
            if not self._has_served:
                self._end(code or EXIT_UNCLEAN)
                return
            if clock.time() - begun > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.error("worker_ended", number=index, code=code, again_in_seconds=pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _live(self) -> int:
        """Start a worker, and return the code it ends with; when the service stops, it is told to end."""
        try:
            link, process, descriptor = self._start()
        except OSError as error:  # no process, memory or descriptor to spare: the others go on, and there may be later
            log.error("worker_not_started", error=type(error).__name__)
            return EXIT_UNCLEAN
        ended = asyncio.create_task(_end_of(process, descriptor))
        welcome = asyncio.create_task(self._welcome(link, process.pid))
        try:
            stopped = asyncio.create_task(self._stop.wait())
            await asyncio.wait([ended, stopped], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if not ended.done():
                await self._drain(process, ended)
            return await ended
        finally:
            process.kill()  # does nothing to one that has ended
            ended.cancel()
            await welcome  # which ends with the worker
            await asyncio.to_thread(self._scrape.remove, link)
            link.close()

    def _start(self) -> tuple[WorkerLink, subprocess.Popen[bytes], int]:
        """Start this program once more, without a fork of the interpreter.

        Returns:
            The link to it, the process, and a descriptor that tells when it ends.

        Raises:
            OSError: it cannot be started; nothing of it is left.
        """
        here, there = socket.socketpair()
        with contextlib.ExitStack() as undo:
            undo.enter_context(here)
            with there:
                environment = {**self._environment, "HEDGEROW_WORKER_CHANNEL": str(there.fileno())}
                command = [sys.executable, *sys.orig_argv[1:]]
                process = subprocess.Popen(command, env=environment, pass_fds=[there.fileno()])  # noqa: S603
            undo.callback(process.wait)
            undo.callback(process.kill)
            descriptor = os.pidfd_open(process.pid)
            undo.pop_all()
        return WorkerLink(here), process, descriptor

    async def _welcome(self, link: WorkerLink, pid: int) -> None:
        with contextlib.suppress(OSError):
            if await link.serves():
                await asyncio.to_thread(self._scrape.add, link)
                self._has_served = True
                self._begun.set()
                log.info("worker_serves", pid=pid)

    async def _drain(self, process: subprocess.Popen[bytes], ended: asyncio.Task[int]) -> None:
        """Tell a worker to end, and end it when it takes longer than it may."""
        process.terminate()
        bound = self._config.drain_notice_seconds + self._config.drain_grace_seconds + CLOSING_SECONDS
        await asyncio.wait([ended], timeout=bound)
        # One that was told before it served ends by the signal itself.
        if not ended.done() or ended.result() not in (0, -signal.SIGTERM):
            log.error("worker_not_drained", pid=process.pid)
            self._end(EXIT_UNCLEAN)
            process.kill()


async def _end_of(process: subprocess.Popen[bytes], descriptor: int) -> int:
    """Wait for a process without a thread, and close its descriptor; return its exit code."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
    return process.wait()


@contextlib.contextmanager
def _only_parent(config: ServiceConfig) -> Iterator[None]:
    """Be the only parent on the service's folder, with no counts of an earlier one.

    Raises:
        FailedPreconditionError: there is another one.
    """
    folder = worker_folder(config)
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(folder.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedPreconditionError("this service already runs on this folder") from None
        shutil.rmtree(folder, ignore_errors=True)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _held_port(listen: str) -> Iterator[str]:
    """Hold a port for the workers without listening on it; yield its address, which names the number.

    Raises:
        UnavailableError: it cannot be bound, as when a process that is no worker of this service listens there.
    """
    host, _, port = listen.rpartition(":")
    with contextlib.ExitStack() as stack:
        try:
            family, *_, address = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)[0]
            # Not shared at first, else another service that shares its port would go unnoticed.
            with socket.socket(family) as alone:
                alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                alone.bind(address)
            holder = stack.enter_context(socket.socket(family))
            # The first for what is left of connections that ended; without it from then on, nobody else gets the number.
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            holder.bind(address)
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
        except OSError as error:
            raise UnavailableError(
                f"{listen} cannot be bound; is the port taken?", metadata={"listen": listen}
            ) from error
        yield f"{host}:{holder.getsockname()[1]}"
