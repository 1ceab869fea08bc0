"""What is done with trained weights before anyone decides about them: calibrate, export, predict, attack, time.

Runs in the training process, after the ranks have ended: it is the other place that needs torch.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime
import torch
from safetensors import numpy as safetensors

from libs.artifact import MAX_MODEL_BYTES
from services.training.calibration import fit_platt, sigmoid
from services.training.network import Network, network_from
from services.training.onnx_export import INPUT, PROBABILITY, export_onnx
from services.training.recipe import Tensors
from services.training.robustness import attack

FloatArray = npt.NDArray[np.float64]

CHUNK_ROWS: Final = 8192
WARM_UP_PREDICTIONS: Final = 100
TIMED_PREDICTIONS: Final = 1000
GRAPH_TOLERANCE: Final = 1e-6


class UnusableModelError(Exception):
    """The trained weights make no model; the message says why and is fit for the caller."""


def judge(weights: Tensors, rows: Tensors) -> Tensors:
    """Return the finished model and what it did.

    Args:
        weights: as ``network.weights_of`` gives them.
        rows: as ``recipe.for_judging`` gives them.

    Returns:
        ``weights`` and ``onnx`` (the files, uint8), ``calibration``, ``gate``, ``gate.attacked`` and ``test``
        (calibrated probabilities), and ``latencies_ms``.

    Raises:
        UnusableModelError: the weights are not finite, the model is too large, or the graph disagrees with the network.
    """
    if not all(np.isfinite(array).all() for array in weights.values()):
        raise UnusableModelError("training diverged: a weight is not a number; choose a smaller learning rate")
    torch.set_num_threads(1)
    raw = logits_of(network_from(weights), rows["calibration.features"])
    calibrated = weights | {"calibration": np.array(fit_platt(raw, rows["calibration.labels"]))}
    network = network_from(calibrated)
    onnx, kept = export_onnx(calibrated), safetensors.save(calibrated)
    if max(len(onnx), len(kept)) > MAX_MODEL_BYTES:
        raise UnusableModelError(f"the model has more than {MAX_MODEL_BYTES} bytes; choose smaller hidden layers")
    gate = sigmoid(logits_of(network, rows["gate.features"]))
    session = _session(onnx)
    _check_graph(session, rows["gate.features"], gate)
    attacked = attack(
        rows["gate.features"],
        rows["gate.labels"],
        rows["mutable_fractions"],
        lambda x: logits_of(network, x),
        lambda x: gradients_of(network, x),
    )
    return {
        "weights": np.frombuffer(kept, dtype=np.uint8),
        "onnx": np.frombuffer(onnx, dtype=np.uint8),
        "calibration": sigmoid(logits_of(network, rows["calibration.features"])),
        "gate": gate,
        "gate.attacked": sigmoid(logits_of(network, attacked)),
        "test": sigmoid(logits_of(network, rows["test.features"])),
        "latencies_ms": _latencies(session, rows["gate.features"]),
    }


def logits_of(network: Network, features: FloatArray) -> FloatArray:
    """Return calibrated logits, shape [n], in evaluation mode; the mode is restored."""
    was_training = network.training
    network.eval()
    with torch.no_grad():
        parts = [network(torch.from_numpy(part)).numpy() for part in _chunks(features)]
    network.train(was_training)
    return np.concatenate(parts)


def gradients_of(network: Network, features: FloatArray) -> FloatArray:
    """Return the derivatives of the logits by the features, shape [n, f], in evaluation mode; the mode is restored."""
    was_training = network.training
    network.eval()
    parts = []
    for part in _chunks(features):
        inputs = torch.from_numpy(part).clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(inputs).sum(), inputs)
        parts.append(gradient.numpy())
    network.train(was_training)
    return np.concatenate(parts)


def _chunks(features: FloatArray) -> list[FloatArray]:
    return [features[start : start + CHUNK_ROWS] for start in range(0, len(features), CHUNK_ROWS)]


def _session(onnx: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(onnx, options, providers=["CPUExecutionProvider"])


def _check_graph(session: Any, features: FloatArray, expected: FloatArray) -> None:
    (answer,) = session.run([PROBABILITY], {INPUT: features})
    furthest = float(np.abs(answer[:, 0] - expected).max())
    if not furthest <= GRAPH_TOLERANCE:
        raise UnusableModelError(f"the exported graph differs from the network by {furthest:.1e}")


def _latencies(session: Any, features: FloatArray) -> FloatArray:
    """Return the time of single predictions in milliseconds, after a warm-up."""
    taken = np.empty(TIMED_PREDICTIONS)
    for number in range(-WARM_UP_PREDICTIONS, TIMED_PREDICTIONS):
        row = np.ascontiguousarray(features[number % len(features)][None])
        begin = time.perf_counter()
        session.run([PROBABILITY], {INPUT: row})
        if number >= 0:
            taken[number] = (time.perf_counter() - begin) * 1e3
    return taken
