"""The logit of a served ONNX graph and its derivative by the features, in numpy.

Explanations differentiate the very graph that is served, read from the same signed bytes; there is no second copy of the
architecture to keep in step. Everything is computed in float64, so that the completeness gap is the integral's alone.

The graph takes one input of shape [n, features] and treats rows independently. Its logit is the output named ``logit``,
or else what goes into the last Sigmoid before the output ``probability``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from services.inference.onnx_operators import OPERATORS, Array, Node

FloatArray = npt.NDArray[np.float64]

_PASSES_THROUGH: Final = frozenset({"Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})


class UnsupportedGraphError(Exception):
    """The graph holds something that cannot be differentiated here; the message says what."""


class OnnxGraph:
    """A graph that can be evaluated and differentiated."""

    def __init__(self, model: bytes) -> None:
        """Read a graph.

        Raises:
            UnsupportedGraphError: it has another number of inputs than one, no logit, or an operator not in the table.
        """
        graph = onnx.load_model_from_string(model).graph
        self._constants = {tensor.name: _real(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
        names = [value.name for value in graph.input if value.name not in self._constants]
        if len(names) != 1:
            raise UnsupportedGraphError(f"it has {len(names)} inputs where one is expected")
        self._input = names[0]
        nodes = [self._node(node) for node in graph.node]
        self._logit = _logit_name(nodes, {value.name for value in graph.output})
        self._nodes: list[Node] = []
        # Only what the features reach has a gradient; the rest is constant.
        active = {self._input}
        for node in _needed([node for node in nodes if node is not None], self._logit):
            if node.operator not in OPERATORS:
                raise UnsupportedGraphError(f"it uses the operator {node.operator}")
            reached = tuple(name in active for name in node.inputs)
            self._nodes.append(dataclasses.replace(node, active=reached))
            if any(reached):
                active.add(node.output)

    def _node(self, node: Any) -> Node | None:
        """Return a node of the graph; a constant is kept as such and is none."""
        attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Constant":
            (value,) = attributes.values()
            array = numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)
            self._constants[node.output[0]] = _real(array)
            return None
        return Node(node.op_type, tuple(node.input), node.output[0], attributes)

    def logits(self, rows: FloatArray) -> FloatArray:
        """Return the logits, shape [n], of rows of shape [n, features]."""
        return self._logits(self._evaluate(rows), len(rows))

    def logits_and_gradients(self, rows: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return the logits, shape [n], and their derivatives by the features, shape [n, features]."""
        values = self._evaluate(rows)
        gradients: dict[str, Array] = {self._logit: np.ones_like(values[self._logit])}
        with np.errstate(all="ignore"):
            for node in reversed(self._nodes):
                gradient = gradients.pop(node.output, None)
                if gradient is None:
                    continue
                inputs = [values[name] if name else None for name in node.inputs]
                backward = OPERATORS[node.operator][1](node, inputs, values[node.output], gradient)
                for name, part, active in zip(node.inputs, backward, node.active, strict=True):
                    if part is not None and active:
                        gradients[name] = gradients[name] + part if name in gradients else part
        return self._logits(values, len(rows)), gradients.get(self._input, np.zeros_like(rows))

    def _evaluate(self, rows: FloatArray) -> Mapping[str, Array]:
        values: dict[str, Array] = dict(self._constants)
        values[self._input] = rows
        # Unused branches of a Where may divide by zero or take the logarithm of a negative number.
        with np.errstate(all="ignore"):
            for node in self._nodes:
                inputs = [values[name] if name else None for name in node.inputs]
                values[node.output] = OPERATORS[node.operator][0](node, inputs)
        return values

    def _logits(self, values: Mapping[str, Array], rows: int) -> FloatArray:
        return np.asarray(values[self._logit], dtype=np.float64).reshape(rows)


def _real(array: Array) -> Array:
    """Return floats of any width as float64, and integers and booleans as they are."""
    return array if array.dtype.kind in "iub" else array.astype(np.float64)


def _logit_name(nodes: list[Node | None], outputs: set[str]) -> str:
    """Return the name of the logit.

    Raises:
        UnsupportedGraphError: there is none.
    """
    if "logit" in outputs:
        return "logit"
    makers = {node.output: node for node in nodes if node is not None}
    node = makers.get("probability")
    while node is not None and node.operator in _PASSES_THROUGH:
        node = makers.get(node.inputs[0])
    if node is None or node.operator != "Sigmoid":
        raise UnsupportedGraphError("it has no output logit, and its probability does not come from a Sigmoid")
    return node.inputs[0]


def _needed(nodes: list[Node], output: str) -> list[Node]:
    """Return the nodes that an output depends on, in order."""
    wanted, needed = {output}, []
    for node in reversed(nodes):
        if node.output in wanted:
            wanted.update(node.inputs)
            needed.append(node)
    return needed[::-1]
