"""A small network as ONNX bytes: imputation, standardisation, one hidden layer in float32, calibration.

It has the shape of what training exports; the seed makes versions that differ.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from onnx import TensorProto, helper, numpy_helper

from libs.artifact import Evidence, Manifest, members_of, seal_artifact, signed_bytes

FEATURES = 5
FILL = np.array([0.0, 1.0, 2.0, 3.0, 4.0])
SIGNER = Ed25519PrivateKey.from_private_bytes(b"t" * 32)
KEY_VERSION = 2
PUBLIC_KEY = SIGNER.public_key().public_bytes_raw()
DATA_KEY = bytes(range(32))


def manifest(version: int = 1, onnx: bytes = b"", **changes: Any) -> Manifest:
    """The manifest of a version of the model ``credit``."""
    content: dict[str, Any] = {
        "model_version": f"models/credit/versions/{version}",
        "training_run": "trainingRuns/run",
        "training_set": "trainingSets/set",
        "training_set_digest": "0" * 64,
        "feature_service": "featureServices/credit",
        "feature_names": tuple(f"view.feature_{index}" for index in range(FEATURES)),
        "feature_descriptions": tuple(f"Feature number {index}" for index in range(FEATURES)),
        "baseline": (0.0, 0.25, 0.5, 0.75, 1.0),
        "hidden_sizes": (16,),
        "threshold": 0.5,
        "gates": {"accuracy": "PASSED", "fairness:sex": "PASSED"},
        "purposes": ("credit_risk",),
        "members": members_of(onnx, b""),
    }
    return Manifest(**content | changes)


def sealed_version(version: int = 1, **changes: Any) -> tuple[bytes, Evidence]:
    """A sealed and signed version of the small model; its seed is the version."""
    onnx = changes.pop("onnx", None) or onnx_bytes(version)
    made = manifest(version, onnx, **changes)
    content = made.encode()
    sealed = seal_artifact(content, onnx, b"", data_key=DATA_KEY, model_version=made.model_version)
    digest = hashlib.sha256(sealed).hexdigest()
    return sealed, Evidence(made.model_version, digest, content, SIGNER.sign(signed_bytes(content)), KEY_VERSION)


def onnx_bytes(
    seed: int = 1, *, output: str = "probability", last: str = "Sigmoid", calibrated: bool = True, hidden: int = 16
) -> bytes:
    """A model from ``features`` (float64 [n, 5]) to ``output`` and ``logit`` (float64 [n, 1])."""
    chance = np.random.default_rng(seed)
    constants: dict[str, Any] = {
        "fill": FILL,
        "mean": FILL / 2,
        "scale": np.arange(1.0, FEATURES + 1.0),
        "w1": chance.normal(size=(FEATURES, hidden)).astype(np.float32),
        "b1": chance.normal(size=hidden).astype(np.float32),
        "w2": chance.normal(size=(hidden, 1)).astype(np.float32),
        "b2": chance.normal(size=1).astype(np.float32),
        "slope": np.array([1.2]),
        "offset": np.array([-0.3]),
    }
    nodes = [
        helper.make_node("IsNaN", ["features"], ["missing"]),
        helper.make_node("Where", ["missing", "fill", "features"], ["filled"]),
        helper.make_node("Sub", ["filled", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["standard"]),
        helper.make_node("Cast", ["standard"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["gate"]),
        helper.make_node("Mul", ["h", "gate"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["z"]),
        helper.make_node("Cast", ["z"], ["raw"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["raw", "slope"], ["sloped"]),
        helper.make_node("Add", ["sloped", "offset"], ["logit"]),
        helper.make_node(last, ["logit" if calibrated else "raw"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("features", TensorProto.DOUBLE, ["n", FEATURES])],
        [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", 1]) for name in (output, "logit")],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def probabilities(rows: np.ndarray, seed: int = 1, hidden: int = 16) -> np.ndarray:
    """What the model of a seed answers, in plain numpy; shape [n]."""
    chance = np.random.default_rng(seed)
    w1, b1 = chance.normal(size=(FEATURES, hidden)), chance.normal(size=hidden)
    w2, b2 = chance.normal(size=(hidden, 1)), chance.normal(size=1)
    h = (np.where(np.isnan(rows), FILL, rows) - FILL / 2) / np.arange(1.0, FEATURES + 1.0) @ w1 + b1
    logit = ((h / (1 + np.exp(-h))) @ w2 + b2)[:, 0] * 1.2 - 0.3
    return np.asarray(1 / (1 + np.exp(-logit)))
