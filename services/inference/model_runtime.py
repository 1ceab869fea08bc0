"""Runs model versions: ONNX Runtime in a bounded executor, one thread a batch, and explanations in another.

A version becomes a ``ServedModel`` only when its graph is loaded, checked and warmed. From then on it is immutable: a
redeployment makes a new one beside it, and whoever holds the old one is still answered by it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime

from hedgerow.errors import FailedPreconditionError, ResourceExhaustedError
from libs.artifact import Manifest
from libs.telemetry.pool import ObservedPool
from services.inference.batching import Batcher, BatchLimits
from services.inference.explain import Attribution, integrated_gradients
from services.inference.onnx_graph import OnnxGraph, UnsupportedGraphError
from services.inference.tensors import TensorSpec

FloatArray = npt.NDArray[np.float64]

INPUT_NAME: Final = "features"
OUTPUT_NAME: Final = "probability"
PROBE_TOLERANCE: Final = 1e-4
_NUMPY_TYPES: Final[Mapping[str, type]] = {"tensor(double)": np.float64, "tensor(float)": np.float32}
_PROBE_ROWS: Final = 8


@dataclass(frozen=True, slots=True)
class RuntimeLimits:
    """Bounds of the whole process.

    Attributes:
        batch: bounds of each model's queue.
        predict_threads: batches run at once over all models.
        explain_waiting: explanations in progress or waiting before new ones are refused.
    """

    batch: BatchLimits
    predict_threads: int = 2
    explain_waiting: int = 16


class ServedModel:
    """One loaded model version.

    Attributes:
        manifest: what was signed about it.
        baseline: the values explanations compare with, raw, shape [features].
        inputs: its input tensors.
        outputs: its output tensors.
    """

    def __init__(self, manifest: Manifest, graph: OnnxGraph, batcher: Batcher, explainer: _Explainer) -> None:
        self.manifest = manifest
        self.baseline: FloatArray = np.array(manifest.baseline)
        self.inputs: Sequence[TensorSpec] = (TensorSpec(INPUT_NAME, "FP64", (-1, len(manifest.feature_names))),)
        self.outputs: Sequence[TensorSpec] = (TensorSpec(OUTPUT_NAME, "FP64", (-1, 1)),)
        self._graph = graph
        self.batcher = batcher
        self._explainer = explainer

    async def predict(self, rows: FloatArray, *, expires_at: float) -> FloatArray:
        """Return probabilities, shape [n, 1], for raw rows of shape [n, features] (float64, NaN where missing).

        Raises:
            HedgerowError: as ``Batcher.submit`` does.
        """
        return await self.batcher.submit(rows, expires_at=expires_at)

    async def explain(self, rows: FloatArray, *, seconds: float) -> Attribution:
        """Return the attributions of raw rows of shape [n, features] to the features.

        Args:
            rows: as for predict.
            seconds: time after which nobody waits any more.

        Raises:
            ResourceExhaustedError: too many explanations wait.
            CallCancelledError: the time ran out.
        """
        return await self._explainer.explain(self._graph, rows, self.baseline, seconds)

    async def close(self) -> None:
        """Wait until its requests are answered, and refuse new ones."""
        await self.batcher.close()


class ModelRuntime:
    """Loads model versions and owns the threads they run in."""

    def __init__(self, limits: RuntimeLimits) -> None:
        self._limits = limits
        self._predictions = ObservedPool(limits.predict_threads, "predict")
        self._explainer = _Explainer(limits.explain_waiting)

    @property
    def pools(self) -> Sequence[ObservedPool]:
        """Its threads."""
        return self._predictions, self._explainer.pool

    async def load(self, manifest: Manifest, onnx: bytes) -> ServedModel:
        """Load, check and warm a version, off the event loop.

        Args:
            manifest: verified.
            onnx: the graph; one input of shape [n, features], an output ``probability`` of shape [n, 1].

        Raises:
            FailedPreconditionError: the graph cannot be served as its manifest says.
        """
        session, graph = await asyncio.to_thread(_load, manifest, onnx)
        batcher = Batcher(session.run, self._predictions, self._limits.batch)
        return ServedModel(manifest, graph, batcher, self._explainer)

    def close(self) -> None:
        """End the threads once their work is done."""
        self._predictions.shutdown(wait=True)
        self._explainer.close()


class _Session:
    """An ONNX Runtime session as a function of rows."""

    def __init__(self, onnx: bytes) -> None:
        options = onnxruntime.SessionOptions()
        # Parallelism comes from batches and threads of our own: a pool inside each session would only contend.
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        # Small models gain nothing from an arena, and at rest it would keep the memory of the largest batch.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])
        inputs = self._session.get_inputs()
        if len(inputs) != 1 or inputs[0].type not in _NUMPY_TYPES:
            raise _unservable("it must have one input of float64 or float32")
        if OUTPUT_NAME not in {output.name for output in self._session.get_outputs()}:
            raise _unservable(f"it has no output {OUTPUT_NAME}")
        self._input: str = inputs[0].name
        self._dtype = _NUMPY_TYPES[inputs[0].type]

    def run(self, rows: npt.NDArray[Any]) -> FloatArray:
        """Return probabilities, shape [n, 1], for rows of shape [n, features]."""
        if len(rows) == 0:
            return np.empty((0, 1))
        # The one cast on the way: features are float64 up to here, online and offline alike.
        fed: dict[str, npt.NDArray[Any]] = {self._input: np.ascontiguousarray(rows, dtype=self._dtype)}
        (answer,) = self._session.run([OUTPUT_NAME], fed)
        return np.asarray(answer, dtype=np.float64).reshape(len(rows), 1)


class _Explainer:
    """Runs explanations one at a time in a thread of its own, so that they never hold up predictions."""

    def __init__(self, waiting: int) -> None:
        self.pool = ObservedPool(1, "explain")
        self._most_waiting = waiting
        self._waiting = 0

    async def explain(self, graph: OnnxGraph, rows: FloatArray, baseline: FloatArray, seconds: float) -> Attribution:
        if self._waiting >= self._most_waiting:
            raise ResourceExhaustedError(f"{self._waiting} explanations already wait; try again later", retry_after=1.0)
        gone = threading.Event()
        deadline = time.monotonic() + seconds

        def run() -> Attribution:
            return integrated_gradients(
                graph, rows, baseline, cancelled=lambda: gone.is_set() or time.monotonic() > deadline
            )

        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.pool, run)
        finally:
            gone.set()
            self._waiting -= 1

    def close(self) -> None:
        self.pool.shutdown(wait=True)


def _load(manifest: Manifest, onnx: bytes) -> tuple[_Session, OnnxGraph]:
    """Load a graph, hold its two readings against each other, and warm it. Blocking."""
    try:
        session, graph = _Session(onnx), OnnxGraph(onnx)
    except UnsupportedGraphError as error:
        raise _unservable(f"its answers could not be explained: {error}") from error
    except FailedPreconditionError:
        raise
    except Exception as error:  # ONNX Runtime and the parser raise many types, all of them for a graph that is no good
        raise _unservable("its graph does not load") from error
    _probe(np.array(manifest.baseline), session, graph)
    return session, graph


def _probe(baseline: FloatArray, session: _Session, graph: OnnxGraph) -> None:
    """Run both readings of the graph on rows around the baseline.

    Raises:
        FailedPreconditionError: the width is wrong, an answer is no probability, or the readings differ.
    """
    rows = baseline + np.linspace(-2.0, 2.0, _PROBE_ROWS)[:, None] * (1.0 + np.abs(baseline))
    rows[0] = baseline
    try:
        served = session.run(rows)[:, 0]
        with np.errstate(over="ignore"):
            derived = 1.0 / (1.0 + np.exp(-graph.logits(rows)))
    except Exception as error:  # see _load
        raise _unservable(f"it does not take rows of {len(baseline)} features") from error
    if not ((served >= 0.0) & (served <= 1.0)).all():
        raise _unservable("its answers are not probabilities")
    if np.abs(served - derived).max() > PROBE_TOLERANCE:
        raise _unservable("its explanations would not agree with its answers")


def _unservable(why: str) -> FailedPreconditionError:
    return FailedPreconditionError(f"the model cannot be served: {why}")
