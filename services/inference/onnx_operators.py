"""Operators of an ONNX graph in numpy, each with the product of its derivative and a gradient.

An operator is a pair: ``forward(node, inputs)`` returns its value, and ``backward(node, inputs, value, gradient)`` returns
one gradient per input, or None for an input that has none. An optional input that is absent is None. Real values are
float64. The table holds what networks on
tabular data are made of; ``onnx_graph.py`` refuses a graph with anything else when it is loaded, not when it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Gradients = Sequence[Array | None]

FLOAT: Final = 1
FLOAT16: Final = 10
DOUBLE: Final = 11
BFLOAT16: Final = 16
_INTEGER_OR_BOOL: Final[Mapping[int, type]] = {2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_}
_ROOT_2: Final = math.sqrt(2.0)


@dataclass(frozen=True, slots=True)
class Node:
    """One node of a graph.

    Attributes:
        operator: its operator.
        inputs: the names it reads, "" where absent.
        output: the name it writes.
        attributes: by name.
        active: for each input, whether it depends on the features; the gradients of the others are not asked for.
    """

    operator: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]
    active: tuple[bool, ...] = ()


Inputs = Sequence[Any]
Forward = Callable[[Node, Inputs], Array]
Backward = Callable[[Node, Inputs, Array, Array], Gradients]


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes along which its operand was repeated."""
    if gradient.shape == shape:
        return gradient
    extra = gradient.ndim - len(shape)
    axes = tuple(range(extra)) + tuple(
        axis + extra for axis, size in enumerate(shape) if size == 1 and gradient.shape[axis + extra] != 1
    )
    summed: Array = gradient.sum(axis=axes)
    return summed.reshape(shape)


def _elementwise(value: Callable[[Array], Array], slope: Callable[[Array, Array], Array]) -> tuple[Forward, Backward]:
    """An operator of one operand; ``slope`` takes the operand and the value."""
    return (
        lambda node, x: value(x[0]),
        lambda node, x, y, g: [g * slope(x[0], y)],
    )


def _pairwise(
    value: Callable[[Array, Array], Array], slopes: Callable[[Array, Array], tuple[Any, Any]]
) -> tuple[Forward, Backward]:
    """An operator of two operands that are broadcast; ``slopes`` returns its derivative by each."""

    def backward(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
        slope = slopes(x[0], x[1])
        return [unbroadcast(g * slope[i], x[i].shape) if node.active[i] else None for i in (0, 1)]

    return (lambda node, x: value(x[0], x[1])), backward


def _without_gradient(value: Callable[..., Array]) -> tuple[Forward, Backward]:
    """An operator whose value is piecewise constant."""
    return (lambda node, x: value(*x)), (lambda node, x, y, g: [None] * len(x))


def _same_elements(value: Forward) -> tuple[Forward, Backward]:
    """An operator that gives the elements of its first operand another shape."""
    return value, lambda node, x, y, g: [g.reshape(x[0].shape)] + [None] * (len(x) - 1)


def _logistic(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def _normal_cdf(x: Array) -> Array:
    cdf: Array = 0.5 * (1.0 + _erf(x / _ROOT_2))
    return cdf


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu_slope(x: Array, y: Array) -> Array:
    return _normal_cdf(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _cast(node: Node, x: Inputs) -> Array:
    # Every real type is float64 here: rounding to a narrower one would put noise into the completeness gap.
    cast: Array = x[0].astype(_INTEGER_OR_BOOL.get(node.attributes["to"], np.float64))
    return cast


def _gemm(node: Node, x: Inputs) -> Array:
    a, b = _gemm_operands(node, x)
    product: Array = node.attributes.get("alpha", 1.0) * (a @ b)
    if len(x) > 2 and x[2] is not None:
        product = product + node.attributes.get("beta", 1.0) * x[2]
    return product


def _gemm_operands(node: Node, x: Inputs) -> tuple[Array, Array]:
    return (
        x[0].T if node.attributes.get("transA", 0) else x[0],
        x[1].T if node.attributes.get("transB", 0) else x[1],
    )


def _gemm_back(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
    a, b = _gemm_operands(node, x)
    scaled = node.attributes.get("alpha", 1.0) * g
    gradients: list[Array | None] = [None] * len(x)
    if node.active[0]:
        by_a = scaled @ b.T
        gradients[0] = by_a.T if node.attributes.get("transA", 0) else by_a
    if node.active[1]:
        by_b = a.T @ scaled
        gradients[1] = by_b.T if node.attributes.get("transB", 0) else by_b
    if len(x) > 2 and node.active[2]:
        gradients[2] = unbroadcast(node.attributes.get("beta", 1.0) * g, x[2].shape)
    return gradients


def _matmul_back(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
    return [
        g @ x[1].T if node.active[0] else None,
        x[0].reshape(-1, x[0].shape[-1]).T @ g.reshape(-1, g.shape[-1]) if node.active[1] else None,
    ]


def _bounds(node: Node, x: Inputs) -> tuple[Any, Any]:
    low = x[1] if len(x) > 1 and x[1] is not None else -np.inf
    high = x[2] if len(x) > 2 and x[2] is not None else np.inf
    return low, high


def _clip_back(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
    low, high = _bounds(node, x)
    return [g * ((x[0] > low) & (x[0] < high))] + [None] * (len(x) - 1)


def _where(node: Node, x: Inputs) -> Array:
    condition, first, second = x
    return np.asarray(np.where(condition, first, second))


def _where_back(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
    condition, first, second = x
    return [
        None,
        unbroadcast(np.where(condition, g, 0.0), first.shape),
        unbroadcast(np.where(condition, 0.0, g), second.shape),
    ]


def _extreme_back(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
    # Where operands tie, the first takes the gradient: it must not be counted twice.
    left, gradients = np.ones(y.shape, dtype=bool), []
    for operand in x:
        chosen = left & (np.broadcast_to(operand, y.shape) == y)
        gradients.append(unbroadcast(np.where(chosen, g, 0.0), operand.shape))
        left &= ~chosen
    return gradients


def _concat_back(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
    axis = node.attributes["axis"]
    return np.split(g, np.cumsum([part.shape[axis] for part in x])[:-1], axis=axis)


def _gather(node: Node, x: Inputs) -> Array:
    taken: Array = np.take(x[0], x[1], axis=node.attributes.get("axis", 0))
    return taken


def _gather_back(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
    axis = node.attributes.get("axis", 0) % x[0].ndim
    before: tuple[Any, ...] = (slice(None),) * axis
    spread, index = np.zeros(x[0].shape), x[1] % x[0].shape[axis]
    if index.ndim != 1 or not index.size:
        np.add.at(spread, (*before, index), g)
        return [spread, None]
    # Equal indices side by side are summed in one sweep, many times faster than one by one.
    order = np.argsort(index, kind="stable")
    chosen = index[order]
    first = np.flatnonzero(np.diff(chosen, prepend=-1))
    spread[(*before, chosen[first])] = np.add.reduceat(np.take(g, order, axis=axis), first, axis=axis)
    return [spread, None]


def _slices(x: Inputs) -> tuple[slice, ...]:
    starts, ends = x[1].tolist(), x[2].tolist()
    axes = x[3].tolist() if len(x) > 3 and x[3] is not None else list(range(len(starts)))
    steps = x[4].tolist() if len(x) > 4 and x[4] is not None else [1] * len(starts)
    key = [slice(None)] * x[0].ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        key[axis] = slice(start, end, step)
    return tuple(key)


def _slice_back(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
    spread = np.zeros(x[0].shape)
    spread[_slices(x)] = g
    return [spread] + [None] * (len(x) - 1)


def _reshape(node: Node, x: Inputs) -> Array:
    kept = node.attributes.get("allowzero", 0)
    sizes = [x[0].shape[i] if size == 0 and not kept else size for i, size in enumerate(x[1].tolist())]
    return np.reshape(x[0], sizes)


def _flatten(node: Node, x: Inputs) -> Array:
    axis = node.attributes.get("axis", 1)
    return np.reshape(x[0], (math.prod(x[0].shape[:axis]), -1))


def _axes(node: Node, x: Inputs) -> tuple[int, ...] | None:
    axes = x[1].tolist() if len(x) > 1 and x[1] is not None else node.attributes.get("axes")
    return None if axes is None else tuple(axes)


def _reduce(function: Callable[..., Array]) -> Forward:
    return lambda node, x: function(x[0], axis=_axes(node, x), keepdims=bool(node.attributes.get("keepdims", 1)))


def _reduce_back(*, mean: bool) -> Backward:
    def backward(node: Node, x: Inputs, y: Array, g: Array) -> Gradients:
        axes = _axes(node, x)
        if not node.attributes.get("keepdims", 1):
            g = np.expand_dims(g, axes if axes is not None else tuple(range(x[0].ndim)))
        share = y.size / x[0].size if mean else 1.0
        return [np.broadcast_to(g * share, x[0].shape)] + [None] * (len(x) - 1)

    return backward


def _batch_norm_factor(node: Node, x: Inputs) -> Array:
    _, scale, _, _, variance = x
    factor: Array = scale / np.sqrt(variance + node.attributes.get("epsilon", 1e-5))
    return factor


OPERATORS: Final[Mapping[str, tuple[Forward, Backward]]] = {
    "Add": _pairwise(np.add, lambda a, b: (1.0, 1.0)),
    "Sub": _pairwise(np.subtract, lambda a, b: (1.0, -1.0)),
    "Mul": _pairwise(np.multiply, lambda a, b: (b, a)),
    "Div": _pairwise(np.divide, lambda a, b: (1.0 / b, -a / (b * b))),
    "Min": (lambda node, x: np.minimum.reduce(np.broadcast_arrays(*x)), _extreme_back),
    "Max": (lambda node, x: np.maximum.reduce(np.broadcast_arrays(*x)), _extreme_back),
    "Gemm": (_gemm, _gemm_back),
    "MatMul": (lambda node, x: x[0] @ x[1], _matmul_back),
    "BatchNormalization": (
        lambda node, x: (x[0] - x[3]) * _batch_norm_factor(node, x) + x[2],
        lambda node, x, y, g: [g * _batch_norm_factor(node, x), None, None, None, None],
    ),
    "Neg": _elementwise(np.negative, lambda x, y: -np.ones_like(x)),
    "Abs": _elementwise(np.abs, lambda x, y: np.sign(x)),
    "Exp": _elementwise(np.exp, lambda x, y: y),
    "Log": _elementwise(np.log, lambda x, y: 1.0 / x),
    "Sqrt": _elementwise(np.sqrt, lambda x, y: 0.5 / y),
    "Tanh": _elementwise(np.tanh, lambda x, y: 1.0 - y * y),
    "Sigmoid": _elementwise(_logistic, lambda x, y: y * (1.0 - y)),
    "Softplus": _elementwise(lambda x: np.logaddexp(x, 0.0), lambda x, y: _logistic(x)),
    "Relu": _elementwise(lambda x: np.maximum(x, 0.0), lambda x, y: (x > 0).astype(np.float64)),
    "Erf": _elementwise(_erf, lambda x, y: 2.0 / math.sqrt(math.pi) * np.exp(-x * x)),
    "Gelu": _elementwise(lambda x: x * _normal_cdf(x), _gelu_slope),
    "LeakyRelu": (
        lambda node, x: np.where(x[0] > 0, x[0], node.attributes.get("alpha", 0.01) * x[0]),
        lambda node, x, y, g: [g * np.where(x[0] > 0, 1.0, node.attributes.get("alpha", 0.01))],
    ),
    "Elu": (
        lambda node, x: np.where(x[0] > 0, x[0], node.attributes.get("alpha", 1.0) * np.expm1(np.minimum(x[0], 0.0))),
        lambda node, x, y, g: [g * np.where(x[0] > 0, 1.0, y + node.attributes.get("alpha", 1.0))],
    ),
    "Clip": (lambda node, x: np.clip(x[0], *_bounds(node, x)), _clip_back),
    "Where": (_where, _where_back),
    "Cast": (_cast, lambda node, x, y, g: [g if y.dtype == np.float64 and x[0].dtype == np.float64 else None]),
    "Identity": (lambda node, x: x[0], lambda node, x, y, g: [g]),
    "Dropout": (lambda node, x: x[0], lambda node, x, y, g: [g] + [None] * (len(x) - 1)),
    "Concat": (lambda node, x: np.concatenate(x, axis=node.attributes["axis"]), _concat_back),
    "Gather": (_gather, _gather_back),
    "Slice": (lambda node, x: x[0][_slices(x)], _slice_back),
    "Reshape": _same_elements(_reshape),
    "Flatten": _same_elements(_flatten),
    "Squeeze": _same_elements(lambda node, x: np.squeeze(x[0], _axes(node, x))),
    "Unsqueeze": _same_elements(lambda node, x: np.expand_dims(x[0], _axes(node, x) or ())),
    "ReduceMean": (_reduce(np.mean), _reduce_back(mean=True)),
    "ReduceSum": (_reduce(np.sum), _reduce_back(mean=False)),
    "IsNaN": _without_gradient(np.isnan),
    "Not": _without_gradient(np.logical_not),
    "And": _without_gradient(np.logical_and),
    "Or": _without_gradient(np.logical_or),
    "Equal": _without_gradient(np.equal),
    "Greater": _without_gradient(np.greater),
    "GreaterOrEqual": _without_gradient(np.greater_equal),
    "Less": _without_gradient(np.less),
    "LessOrEqual": _without_gradient(np.less_equal),
    "Floor": _without_gradient(np.floor),
}
