"""The numpy graph against ONNX Runtime (values) and central differences (derivatives)."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from onnx import TensorProto, helper, numpy_helper

from services.inference.onnx_graph import OnnxGraph, UnsupportedGraphError

FEATURES = 4
CHANCE = np.random.default_rng(11)


def graph(nodes: list[Any], constants: dict[str, np.ndarray], *, output: str = "logit") -> bytes:
    """A model from nodes that read ``x`` (float64 [n, 4]) and write ``output`` (float64 [n, 1])."""
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", FEATURES])],
        [helper.make_tensor_value_info(output, TensorProto.DOUBLE, ["n", 1])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def last(reads: str) -> Any:
    """Ends a graph: a weighted sum of the features."""
    return helper.make_node("MatMul", [reads, "weights"], ["logit"])


WEIGHTS = {"weights": CHANCE.normal(size=(FEATURES, 1))}


def node(operator: str, inputs: list[str], output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(operator, inputs, [output], **attributes)


ELEMENTWISE = ["Neg", "Abs", "Exp", "Tanh", "Sigmoid", "Relu", "Identity"]
SINGLE_ONLY = ["Softplus", "Erf", "Gelu", "LeakyRelu", "Elu"]
"""Operators that ONNX Runtime has for float32 alone."""


def single(operator: str) -> list[Any]:
    to_float, to_double = TensorProto.FLOAT, TensorProto.DOUBLE
    return [node("Cast", ["x"], "f", to=to_float), node(operator, ["f"], "g"), node("Cast", ["g"], to=to_double)]


CASES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    **{name: ([node(name, ["x"]), last("y")], {}) for name in ELEMENTWISE},
    **{name: ([*single(name), last("y")], {}) for name in SINGLE_ONLY},
    "Log": ([node("Exp", ["x"], "e"), node("Log", ["e"]), last("y")], {}),
    "Sqrt": ([node("Exp", ["x"], "e"), node("Sqrt", ["e"]), last("y")], {}),
    "Dropout": ([node("Dropout", ["x"]), last("y")], {}),
    "arithmetic": (
        [
            node("Sub", ["x", "mean"], "a"),
            node("Div", ["a", "spread"], "b"),
            node("Mul", ["b", "x"], "c"),
            node("Add", ["c", "one"]),
            last("y"),
        ],
        {"mean": CHANCE.normal(size=FEATURES), "spread": np.array([[1.0, 2.0, 3.0, 4.0]]), "one": np.array(1.0)},
    ),
    "Div by input": ([node("Exp", ["x"], "e"), node("Div", ["one", "e"]), last("y")], {"one": np.array(1.0)}),
    "Min and Max": (
        [node("Min", ["x", "high"], "a"), node("Max", ["a", "x", "low"]), last("y")],
        {"high": np.array(0.5), "low": np.array(-0.5)},
    ),
    "Gemm": (
        [node("Gemm", ["x", "w", "b"], alpha=0.5, beta=2.0, transB=1), last("y")],
        {"w": CHANCE.normal(size=(FEATURES, FEATURES)), "b": CHANCE.normal(size=FEATURES)},
    ),
    "BatchNormalization": (
        [node("BatchNormalization", ["x", "s", "b", "m", "v"]), last("y")],
        {name: np.abs(CHANCE.normal(size=FEATURES)) + 0.1 for name in "sbmv"},
    ),
    "Clip": ([node("Clip", ["x", "low", "high"]), last("y")], {"low": np.array(-0.5), "high": np.array(0.7)}),
    "Where": (
        [node("Greater", ["x", "zero"], "c"), node("Tanh", ["x"], "t"), node("Where", ["c", "t", "x"]), last("y")],
        {"zero": np.array(0.0)},
    ),
    "Cast": ([node("Cast", ["x"], "f", to=TensorProto.FLOAT), node("Cast", ["f"], to=TensorProto.DOUBLE), last("y")], {}),
    "Concat and Slice": (
        [
            node("Slice", ["x", "0", "2", "axis"], "a"),
            node("Slice", ["x", "2", "4", "axis"], "b"),
            node("Tanh", ["a"], "t"),
            node("Concat", ["b", "t"], axis=1),
            last("y"),
        ],
        {"0": np.array([0]), "2": np.array([2]), "4": np.array([4]), "axis": np.array([1])},
    ),
    "Gather twice the same": (
        [node("Gather", ["x", "index"], axis=1), last("y")],
        {"index": np.array([3, 0, 0, 1])},
    ),
    "Gather one and drop the axis": (
        [
            node("Gather", ["x", "index"], "a", axis=1),
            node("Mul", ["a", "a"], "b"),
            node("Unsqueeze", ["b", "one"], "logit"),
        ],
        {"index": np.array(-2), "one": np.array([1])},
    ),
    "product of two functions of the input": (
        [node("Tanh", ["x"], "a"), node("Exp", ["x"], "b"), node("Div", ["a", "b"]), last("y")],
        {},
    ),
    "shapes": (
        [
            node("Unsqueeze", ["x", "1"], "a"),
            node("Squeeze", ["a", "1"], "b"),
            node("Reshape", ["b", "shape"], "c"),
            node("Flatten", ["c"], axis=1),
            last("y"),
        ],
        {"1": np.array([1]), "shape": np.array([0, 2, 2])},
    ),
    "ReduceMean": (
        [node("Mul", ["x", "x"], "a"), node("ReduceMean", ["a", "axes"], "logit", keepdims=1)],
        {"axes": np.array([1])},
    ),
    "ReduceSum without the axis": (
        [
            node("Tanh", ["x"], "a"),
            node("ReduceSum", ["a", "axes"], "b", keepdims=0),
            node("Unsqueeze", ["b", "axes"], "logit"),
        ],
        {"axes": np.array([1])},
    ),
    "Constant": ([node("Constant", [], "two", value_float=2.0), node("Cast", ["two"], "d", to=TensorProto.DOUBLE),
                  node("Mul", ["x", "d"]), last("y")], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_of_each_operator(case: str) -> None:
    nodes, constants = CASES[case]
    model = graph(nodes, WEIGHTS | constants)
    rows = np.random.default_rng(12).normal(size=(7, FEATURES))
    ours = OnnxGraph(model)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    tolerance = 1e-5 if case in ("Cast", *SINGLE_ONLY) else 1e-9
    (served,) = session.run(["logit"], {"x": rows})
    np.testing.assert_allclose(ours.logits(rows), served[:, 0], rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(ours.logits_and_gradients(rows)[1], differences(ours, rows), rtol=1e-5, atol=1e-7)


def differences(ours: OnnxGraph, rows: np.ndarray, step: float = 1e-6) -> np.ndarray:
    found = np.empty_like(rows)
    for feature in range(rows.shape[1]):
        up, down = rows.copy(), rows.copy()
        up[:, feature] += step
        down[:, feature] -= step
        found[:, feature] = (ours.logits(up) - ours.logits(down)) / (2 * step)
    return found


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["Relu", "Sigmoid", "Tanh"]))
def test_random_networks(seed: int, activation: str) -> None:
    chance = np.random.default_rng(seed)
    hidden = int(chance.integers(1, 9))
    nodes = [
        node("Gemm", ["x", "w1", "b1"], "h"),
        node(activation, ["h"], "s"),
        node("Mul", ["h", "s"], "a"),
        node("Gemm", ["a", "w2", "b2"], "z"),
        node("Sigmoid", ["z"], "p"),
        node("Identity", ["p"], "probability"),
    ]
    constants = {
        "w1": chance.normal(size=(FEATURES, hidden)),
        "b1": chance.normal(size=hidden),
        "w2": chance.normal(size=(hidden, 1)),
        "b2": chance.normal(size=1),
    }
    model = graph(nodes, constants, output="probability")
    ours, rows = OnnxGraph(model), chance.normal(size=(5, FEATURES))
    (served,) = onnxruntime.InferenceSession(model).run(["probability"], {"x": rows})
    np.testing.assert_allclose(1 / (1 + np.exp(-ours.logits(rows))), served[:, 0], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ours.logits_and_gradients(rows)[1], differences(ours, rows), rtol=1e-4, atol=1e-6)


def test_missing_values_take_the_imputed_branch_and_have_no_derivative() -> None:
    nodes = [node("IsNaN", ["x"], "missing"), node("Where", ["missing", "fill", "x"]), last("y")]
    ours = OnnxGraph(graph(nodes, WEIGHTS | {"fill": np.array([1.0, 2.0, 3.0, 4.0])}))
    rows = np.array([[np.nan, 5.0, np.nan, 6.0]])
    weights = WEIGHTS["weights"][:, 0]
    assert ours.logits(rows)[0] == pytest.approx(weights @ [1.0, 5.0, 3.0, 6.0])
    np.testing.assert_allclose(ours.logits_and_gradients(rows)[1], [[0.0, weights[1], 0.0, weights[3]]])


def test_no_rows() -> None:
    ours = OnnxGraph(graph([last("x")], WEIGHTS))
    assert ours.logits(np.empty((0, FEATURES))).shape == (0,)
    logits, gradients = ours.logits_and_gradients(np.empty((0, FEATURES)))
    assert (logits.shape, gradients.shape) == ((0,), (0, FEATURES))


def test_graph_that_cannot_be_explained_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedGraphError, match="operator Cos"):
        OnnxGraph(graph([node("Cos", ["x"]), last("y")], WEIGHTS))
    with pytest.raises(UnsupportedGraphError, match="Sigmoid"):
        OnnxGraph(graph([helper.make_node("MatMul", ["x", "weights"], ["probability"])], WEIGHTS, output="probability"))
