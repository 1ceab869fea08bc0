"""Runs a training process and hears from it; nothing here imports torch.

Rules:

1. The process and its ranks form a session of their own, so one signal reaches all of them.
2. It gets an environment of six variables and three memory files, and no identity, key or socket of the service.
3. It is killed when it is cancelled, when it says nothing for ``stall_seconds``, or after ``run_seconds`` in all,
   whatever torch and gloo wait for.
4. Its ranks talk over the loopback interface alone, and nothing of it listens anywhere else.
5. It ends when the service ends, even by SIGKILL: its standard input closes.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from services.training.recipe import Recipe, Tensors, open_memory, read_tensors, write_tensors

FloatArray = npt.NDArray[np.float64]
OnEvent = Callable[[dict[str, Any]], None]

ROOT: Final = Path(__file__).resolve().parents[2]
READ_BYTES: Final = 65_536
MAX_LINE_BYTES: Final = 65_536
END_SECONDS: Final = 10.0


class TrainingFailedError(Exception):
    """The run made no model; the message says why and is fit for the caller."""


class TrainingCancelledError(Exception):
    """The run was cancelled."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a training process may take.

    Attributes:
        stall_seconds: without any event; starting up counts.
        run_seconds: in all.
    """

    stall_seconds: float = 120.0
    run_seconds: float = 3600.0


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What a training process made.

    Attributes:
        weights: safetensors.
        onnx: the graph.
        calibration: calibrated probabilities of the calibration split.
        gate: those of the gate split.
        attacked: those of the gate split under attack.
        test: those of the test split.
        latencies_ms: of single predictions.
    """

    weights: bytes
    onnx: bytes
    calibration: FloatArray
    gate: FloatArray
    attacked: FloatArray
    test: FloatArray
    latencies_ms: FloatArray


class TrainingProcess:
    """One training run as a child process. ``run`` blocks in one thread; ``cancel`` may come from any."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._cancelled = False

    def run(self, recipe: Recipe, ranks: Tensors, judging: Tensors, on_event: OnEvent) -> Trained:
        """Train, judge, and return what was made.

        Args:
            recipe: how to train.
            ranks: as ``recipe.for_ranks`` gives them.
            judging: as ``recipe.for_judging`` gives them.
            on_event: hears ``rank`` (rank, pid), ``step``, ``epoch`` (its metrics) and ``trained`` in this thread.

        Raises:
            TrainingFailedError: why there is no model.
            TrainingCancelledError: ``cancel`` was called.
        """
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(_memory(name)) for name in ("ranks", "judging", "result")]
            write_tensors(files[0], ranks)
            write_tensors(files[1], judging)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="hedgerow-training-"))
            process = self._start(files, scratch)
            stack.callback(self._end, process)
            told = _Told()
            self._listen(process, recipe, told, on_event)
            if self._cancelled:
                raise TrainingCancelledError
            if not told.judged:
                raise TrainingFailedError(told.reason or _exit_in_words(process))
            return _trained(read_tensors(files[2]))

    def cancel(self) -> None:
        """End the process and its ranks; ``run`` raises TrainingCancelledError."""
        with self._lock:
            self._cancelled = True
            if self._process is not None:
                _kill(self._process)

    def _start(self, files: list[int], scratch: str) -> subprocess.Popen[bytes]:
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": str(ROOT),
            "TMPDIR": scratch,
            "OMP_NUM_THREADS": "1",
            "GLOO_SOCKET_IFNAME": "lo",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
        }
        with self._lock:
            if self._cancelled:
                raise TrainingCancelledError
            # Its standard error may quote anything a library saw, so it is not kept: what matters comes as an event.
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "services.training.worker", *map(str, files), scratch],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=files,
                env=environment,
                start_new_session=True,
            )
            return self._process

    def _listen(self, process: subprocess.Popen[bytes], recipe: Recipe, told: _Told, on_event: OnEvent) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # it ended at once; its exit code says why
            process.stdin.write(recipe.encode().encode() + b"\n")
            process.stdin.flush()
        for line in self._lines(process.stdout.fileno()):
            event = json.loads(line)
            told.hear(event)
            on_event(event)
        with contextlib.suppress(subprocess.TimeoutExpired):  # ``_end`` kills it; what it said counts
            process.wait(END_SECONDS)

    def _lines(self, descriptor: int) -> Iterator[bytes]:
        """Yield lines until the pipe closes; fail when none comes in time."""
        end = time.monotonic() + self._limits.run_seconds
        pending = b""
        while True:
            patience = min(self._limits.stall_seconds, end - time.monotonic())
            ready, _, _ = select.select([descriptor], [], [], max(patience, 0.0))
            if not ready:
                spent = time.monotonic() >= end
                limit = self._limits.run_seconds if spent else self._limits.stall_seconds
                raise TrainingFailedError(
                    f"training {'took' if spent else 'said nothing for'} more than {limit:g} s and was ended"
                )
            part = os.read(descriptor, READ_BYTES)
            if not part:
                return
            *lines, pending = (pending + part).split(b"\n")
            if len(pending) > MAX_LINE_BYTES:
                raise TrainingFailedError("the training process sent a line that is too long")
            yield from lines

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with self._lock:
            _kill(process)
            self._process = None
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        process.wait(END_SECONDS)


class _Told:
    """What the process said about its end.

    A stop that all ranks agreed on explains itself. Otherwise a rank that was killed is the cause, and what the others
    report are consequences of it; otherwise the first report counts.
    """

    def __init__(self) -> None:
        self.judged = False
        self.reason = ""

    def hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "judged":
            self.judged = True
        elif event["event"] in ("fault", "failed"):
            self.reason = event["error"] if event.get("killed") or not self.reason else self.reason


def _exit_in_words(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code is not None and code < 0:
        return f"the training process was ended by {signal.Signals(-code).name}"
    return f"the training process ended with exit code {code} and no word why"


def _kill(process: subprocess.Popen[bytes]) -> None:
    # The group outlives its leader while a rank lives, so it is signalled even when the leader has ended.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@contextlib.contextmanager
def _memory(name: str) -> Iterator[int]:
    descriptor = open_memory(name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _trained(result: Tensors) -> Trained:
    return Trained(
        weights=result["weights"].tobytes(),
        onnx=result["onnx"].tobytes(),
        calibration=result["calibration"],
        gate=result["gate"],
        attacked=result["gate.attacked"],
        test=result["test"],
        latencies_ms=result["latencies_ms"],
    )
