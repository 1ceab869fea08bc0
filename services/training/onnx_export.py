"""The ONNX graph of trained weights, built node by node.

The network has one known shape, so the graph needs no tracer: nine operators, static but for the number of rows, and the
same arithmetic in the same order and precision as ``network.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 21
IR_VERSION: Final = 10
INPUT: Final = "features"
PROBABILITY: Final = "probability"
LOGIT: Final = "logit"


class _Graph:
    """Nodes and constants in the order in which they were added."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name


def export_onnx(weights: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """Return the graph: input ``features`` (float64 [n, f]), outputs ``probability`` and ``logit`` (float64 [n, 1]).

    Args:
        weights: as ``network.weights_of`` gives them.
    """
    graph = _Graph()
    value = _encoded(graph, weights)
    layers = sum(1 for name in weights if name.startswith("layers.") and name.endswith(".bias"))
    for number in range(layers):
        weight = graph.constant(f"layers.{number}.weight", weights[f"layers.{number}.weight"])
        bias = graph.constant(f"layers.{number}.bias", weights[f"layers.{number}.bias"])
        value = graph.node("Gemm", value, weight, bias, name=f"linear_{number}", transB=1)
        if number < layers - 1:
            gate = graph.node("Sigmoid", value, name=f"gate_{number}")
            value = graph.node("Mul", value, gate, name=f"silu_{number}")
    scale = graph.constant("calibration.scale", weights["calibration"][:1])
    offset = graph.constant("calibration.offset", weights["calibration"][1:])
    value = graph.node("Cast", value, name="score", to=TensorProto.DOUBLE)
    scaled = graph.node("Mul", value, scale, name="scaled")
    graph.node("Add", scaled, offset, name=LOGIT)
    graph.node("Sigmoid", LOGIT, name=PROBABILITY)
    return _model(graph, len(weights["encoding.fill"]))


def _encoded(graph: _Graph, weights: Mapping[str, npt.NDArray[Any]]) -> str:
    """Add the encoding and return the name of the network's inputs, float32 [n, width]."""
    part = {
        name: graph.constant(f"encoding.{name}", weights[f"encoding.{name}"])
        for name in ("fill", "feature", "low", "inverse_width", "mean")
    }
    zero, one = graph.constant("zero", np.array(0.0)), graph.constant("one", np.array(1.0))
    absent = graph.node("IsNaN", INPUT, name="absent")
    filled = graph.node("Where", absent, part["fill"], INPUT, name="filled")
    by_segment = graph.node("Gather", filled, part["feature"], name="by_segment", axis=1)
    above = graph.node("Sub", by_segment, part["low"], name="above")
    share = graph.node("Mul", above, part["inverse_width"], name="share")
    risen = graph.node("Clip", share, zero, one, name="risen")
    encoded = graph.node("Sub", risen, part["mean"], name="centred")
    if len(weights["encoding.missing"]):
        missing = graph.constant("encoding.missing", weights["encoding.missing"])
        chosen = graph.node("Gather", absent, missing, name="chosen", axis=1)
        indicators = graph.node("Cast", chosen, name="indicators", to=TensorProto.DOUBLE)
        encoded = graph.node("Concat", encoded, indicators, name="encoded", axis=1)
    return graph.node("Cast", encoded, name="inputs", to=TensorProto.FLOAT)


def _model(graph: _Graph, features: int) -> bytes:
    outputs = [helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["n", 1]) for name in (PROBABILITY, LOGIT)]
    inputs = [helper.make_tensor_value_info(INPUT, TensorProto.DOUBLE, ["n", features])]
    content = helper.make_graph(graph.nodes, "hedgerow", inputs, outputs, graph.constants)
    model = helper.make_model(
        content, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="hedgerow"
    )
    onnx.checker.check_model(model)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized
