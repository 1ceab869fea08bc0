"""Tensors of the Open Inference Protocol: messages to numpy arrays and back.

The messages are ``inference.ModelInferRequest`` and ``ModelInferResponse`` (from ``tritonclient``); this module only reads
and fills their fields. A request carries its tensors in one of two forms: all raw (``raw_input_contents``, one
little-endian row-major buffer per input, in order) or all typed (``inputs[].contents``). The answer takes the form of
the request.

Rules, each of which rejects with TENSOR_INVALID and names the tensor:

- every input of the contract is present once, with its datatype and a shape that the contract allows;
- the number of elements is known from the shape alone (a Python integer, so no product overflows) and must equal what
  was sent; nothing is allocated before that comparison;
- the two forms are never mixed in one request;
- FP16 and BF16 have no typed field and must be sent raw;
- a raw BOOL byte is 0 or 1: anything else is a fault of the sender and is refused rather than normalised;
- a BYTES element is a little-endian uint32 length and that many bytes, and the buffer ends with the last element.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

from hedgerow.errors import InvalidArgumentError, UnimplementedError

Array = npt.NDArray[Any]

MAX_RANK: Final = 16
MAX_ELEMENTS: Final = 1 << 31
_SHOWN_CHARACTERS: Final = 64
_LENGTH: Final = struct.Struct("<I")
_BOUND_TO_ONE_MACHINE: Final = "shared_memory_region"


@dataclass(frozen=True, slots=True)
class _Datatype:
    """How one datatype is carried: its numpy dtype and its field in InferTensorContents ("" when it has none)."""

    dtype: np.dtype[Any]
    field: str


_DATATYPES: Final = {
    "BOOL": _Datatype(np.dtype(np.bool_), "bool_contents"),
    "UINT8": _Datatype(np.dtype("<u1"), "uint_contents"),
    "UINT16": _Datatype(np.dtype("<u2"), "uint_contents"),
    "UINT32": _Datatype(np.dtype("<u4"), "uint_contents"),
    "UINT64": _Datatype(np.dtype("<u8"), "uint64_contents"),
    "INT8": _Datatype(np.dtype("<i1"), "int_contents"),
    "INT16": _Datatype(np.dtype("<i2"), "int_contents"),
    "INT32": _Datatype(np.dtype("<i4"), "int_contents"),
    "INT64": _Datatype(np.dtype("<i8"), "int64_contents"),
    "FP16": _Datatype(np.dtype("<f2"), ""),
    "FP32": _Datatype(np.dtype("<f4"), "fp32_contents"),
    "FP64": _Datatype(np.dtype("<f8"), "fp64_contents"),
    "BF16": _Datatype(np.dtype(ml_dtypes.bfloat16), ""),
    "BYTES": _Datatype(np.dtype(object), "bytes_contents"),
}

DATATYPES: Final = frozenset(_DATATYPES)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a model's contract.

    Attributes:
        name: the tensor's name.
        datatype: a name of the Open Inference Protocol, such as ``FP64``.
        shape: sizes by dimension; -1 is free. A leading -1 is the batch dimension.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy dtype of its arrays; BYTES are object arrays of ``bytes``."""
        return _DATATYPES[self.datatype].dtype

    def admits(self, shape: Sequence[int]) -> bool:
        """Whether a request may have this shape: no negative size, and equal to the contract's where it is fixed."""
        return len(shape) == len(self.shape) and all(
            size >= 0 and fixed in (-1, size) for fixed, size in zip(self.shape, shape, strict=True)
        )


def decode_inputs(request: Any, specs: Sequence[TensorSpec]) -> tuple[dict[str, Array], bool]:
    """Return the input arrays by name, and whether they were sent raw.

    Arrays of fixed-size datatypes are read-only views on the request's buffers when raw, so they cost no copy.

    Raises:
        InvalidArgumentError: TENSOR_INVALID, naming the tensor, what was expected and what was received.
        UnimplementedError: an input lies in shared memory, which does not reach beyond one machine.
    """
    tensors = request.inputs
    expected = {spec.name: spec for spec in specs}
    if len(tensors) != len(expected):
        raise _count_error(tensors, expected)
    buffers = request.raw_input_contents
    raw = len(buffers) > 0
    arrays: dict[str, Array] = {}
    for index, tensor in enumerate(tensors):
        spec = expected.get(tensor.name)
        if spec is None or tensor.name in arrays:
            raise _name_error(index, tensor.name, expected, repeated=spec is not None)
        shape = _checked_shape(index, tensor, spec)
        if raw:
            arrays[spec.name] = _from_raw(index, tensor, spec, shape, buffers)
        else:
            arrays[spec.name] = _from_typed(index, tensor, spec, shape)
    if raw and len(buffers) != len(tensors):
        raise tensor_error(
            "raw_input_contents", "", f"{len(tensors)} buffers, one per input in order", f"{len(buffers)} buffers"
        )
    return arrays, raw


def add_output(response: Any, spec: TensorSpec, array: Array, *, raw: bool) -> None:
    """Append one output tensor to a response.

    Args:
        response: the ModelInferResponse to fill.
        spec: its name and datatype; the shape is the array's.
        array: of the spec's dtype.
        raw: the form of the request. A caller with several outputs must pass the same form for each of them, and raw
            where one is FP16 or BF16.
    """
    output = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=array.shape)
    if raw:
        response.raw_output_contents.append(to_raw(array, spec.datatype))
        return
    field = _DATATYPES[spec.datatype].field
    if not field:
        raise ValueError(f"{spec.datatype} has no typed form")
    getattr(output.contents, field).extend(array.ravel().tolist())


def check_outputs(request: Any, specs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the outputs a request asks for: those it names, in its order, or all when it names none.

    Raises:
        InvalidArgumentError: TENSOR_INVALID, for a name that the model does not have or that is asked for twice.
        UnimplementedError: an output is wanted in shared memory or as classes.
    """
    if not request.outputs:
        return list(specs)
    known = {spec.name: spec for spec in specs}
    asked: dict[str, TensorSpec] = {}
    for index, output in enumerate(request.outputs):
        if output.name not in known or output.name in asked:
            raise tensor_error(
                f"outputs[{index}].name", output.name, f"one of {sorted(known)}, each once", _shown(output.name)
            )
        for parameter in output.parameters:
            if parameter in (_BOUND_TO_ONE_MACHINE, "classification"):
                raise UnimplementedError(
                    f"output parameter {parameter} is not offered; the answer carries the tensor itself"
                )
        asked[output.name] = known[output.name]
    return list(asked.values())


def to_raw(array: Array, datatype: str) -> bytes:
    """Return the raw form: little-endian and row-major whatever the machine and the array's strides."""
    if datatype == "BYTES":
        return b"".join(_LENGTH.pack(len(element)) + element for element in array.ravel().tolist())
    return np.ascontiguousarray(array, dtype=_DATATYPES[datatype].dtype).tobytes()


def tensor_error(field: str, tensor: str, expected: str, received: str, *, hint: str = "") -> InvalidArgumentError:
    """Return the error of a tensor that does not match its contract.

    Args:
        field: path in the request, such as ``inputs[0].shape``.
        tensor: the tensor's name, or empty when the fault is not one tensor's.
        expected: what the contract says.
        received: what the request says, already shortened.
        hint: the way out, where it is not plain.
    """
    subject = f"tensor {_shown(tensor)}" if tensor else field
    what = f"expected {expected}, received {received}" + (f"; {hint}" if hint else "")
    metadata = {"expected": expected, "received": received}
    if tensor:
        metadata["tensor"] = tensor[:_SHOWN_CHARACTERS]
    return InvalidArgumentError(f"{subject}: {what}", reason="TENSOR_INVALID", fields={field: what}, metadata=metadata)


def _checked_shape(index: int, tensor: Any, spec: TensorSpec) -> tuple[int, ...]:
    """Return the request's shape once its datatype and shape match the contract."""
    if tensor.datatype != spec.datatype:
        received = _shown(tensor.datatype)
        raise tensor_error(f"inputs[{index}].datatype", spec.name, f"datatype {spec.datatype}", f"datatype {received}")
    rank = len(tensor.shape)
    if rank > MAX_RANK:
        raise tensor_error(f"inputs[{index}].shape", spec.name, f"shape {list(spec.shape)}", f"{rank} dimensions")
    shape = tuple(tensor.shape)
    if not spec.admits(shape):
        hint = ""
        if rank == len(spec.shape) - 1 and spec.shape[0] == -1:
            hint = f"the first dimension is the batch: send {[1, *shape]} for one row"
        elif any(size < 0 for size in shape):
            hint = "a request states every size; -1 belongs to metadata only"
        raise tensor_error(
            f"inputs[{index}].shape", spec.name, f"shape {list(spec.shape)}", f"shape {list(shape)}", hint=hint
        )
    # Zero sizes are left out of the product, because numpy refuses [0, 2**62] although it holds nothing.
    if math.prod(size or 1 for size in shape) > MAX_ELEMENTS:
        raise tensor_error(
            f"inputs[{index}].shape", spec.name, f"at most {MAX_ELEMENTS} elements", f"shape {list(shape)}"
        )
    if _BOUND_TO_ONE_MACHINE in tensor.parameters:
        raise UnimplementedError(
            f"tensor {_shown(spec.name)} lies in shared memory, which is not offered; send it in the request"
        )
    return shape


def _from_raw(index: int, tensor: Any, spec: TensorSpec, shape: tuple[int, ...], buffers: Sequence[bytes]) -> Array:
    if tensor.HasField("contents") and tensor.contents.ByteSize():
        raise tensor_error(
            f"inputs[{index}].contents",
            spec.name,
            "no contents beside raw_input_contents",
            "both",
            hint="send every tensor raw, or every tensor typed",
        )
    if index >= len(buffers):
        raise tensor_error(
            "raw_input_contents", spec.name, "one buffer per input", f"{len(buffers)} buffers and none for this tensor"
        )
    buffer = buffers[index]
    count = math.prod(shape)
    field = f"raw_input_contents[{index}]"
    if spec.datatype == "BYTES":
        return _bytes_elements(field, spec, buffer, count).reshape(shape)
    wanted = count * spec.dtype.itemsize
    if len(buffer) != wanted:
        raise tensor_error(
            field, spec.name, f"{wanted} bytes for {spec.datatype} {list(shape)}", f"{len(buffer)} bytes"
        )
    if spec.datatype == "BOOL" and buffer.translate(None, b"\x00\x01"):
        raise tensor_error(field, spec.name, "bytes 0 and 1 for BOOL", "another byte")
    return np.frombuffer(buffer, dtype=spec.dtype).reshape(shape)


def _bytes_elements(field: str, spec: TensorSpec, buffer: bytes, count: int) -> Array:
    """Return the elements of a BYTES buffer as an object array of shape [count]."""
    # Each element has a prefix, so this comparison bounds the allocation by the bytes that were really sent.
    if count * _LENGTH.size > len(buffer):
        raise tensor_error(field, spec.name, f"{count} elements", f"{len(buffer)} bytes, too few for their lengths")
    elements = np.empty(count, dtype=object)
    at = 0
    for element in range(count):
        begin = at + _LENGTH.size
        if begin > len(buffer):
            raise tensor_error(field, spec.name, f"{count} elements", f"{element} elements and a truncated length")
        at = begin + _LENGTH.unpack_from(buffer, begin - _LENGTH.size)[0]
        if at > len(buffer):
            raise tensor_error(
                field,
                spec.name,
                f"{at - begin} bytes in element {element}",
                f"{len(buffer) - begin} bytes",
                hint="lengths are little-endian uint32",
            )
        elements[element] = buffer[begin:at]
    if at != len(buffer):
        raise tensor_error(field, spec.name, f"{count} elements", f"{len(buffer) - at} bytes after the last element")
    return elements


def _from_typed(index: int, tensor: Any, spec: TensorSpec, shape: tuple[int, ...]) -> Array:
    field = _DATATYPES[spec.datatype].field
    path = f"inputs[{index}].contents"
    if not field:
        raise tensor_error(
            path, spec.name, f"{spec.datatype} in raw_input_contents", "no raw buffer", hint=f"send {spec.datatype} raw"
        )
    present = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if any(name != field for name in present):
        raise tensor_error(path, spec.name, f"{spec.datatype} in {field}", ", ".join(present))
    values = getattr(tensor.contents, field)
    count = math.prod(shape)
    if len(values) != count:
        raise tensor_error(
            f"{path}.{field}", spec.name, f"{count} elements for shape {list(shape)}", f"{len(values)} elements"
        )
    if spec.datatype == "BYTES":
        elements = np.empty(count, dtype=object)
        elements[:] = list(values)
        return elements.reshape(shape)
    try:
        return np.array(values, dtype=spec.dtype).reshape(shape)
    except OverflowError as error:
        raise tensor_error(f"{path}.{field}", spec.name, f"values of {spec.datatype}", "a value outside it") from error


def _count_error(tensors: Any, expected: dict[str, TensorSpec]) -> InvalidArgumentError:
    for index, tensor in enumerate(tensors):
        if tensor.name not in expected:
            return _name_error(index, tensor.name, expected, repeated=False)
    return tensor_error("inputs", "", f"the tensors {sorted(expected)}", f"{len(tensors)} tensors")


def _name_error(index: int, name: str, expected: dict[str, TensorSpec], *, repeated: bool) -> InvalidArgumentError:
    received = f"{_shown(name)} a second time" if repeated else _shown(name)
    return tensor_error(f"inputs[{index}].name", name, f"the tensors {sorted(expected)}", received)


def _shown(text: str) -> str:
    """Return a caller's text quoted and cut, for a message."""
    return repr(text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…")
