"""The tensor codec of the Open Inference Protocol, with the field cases OIP-02, 04, 06, 08, 09, 10, 11, 13 and 14."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import hypothesis.strategies as st
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from tritonclient.grpc import InferInput, InferResult, service_pb2

from hedgerow.errors import InvalidArgumentError, UnimplementedError
from services.inference import tensors
from services.inference.tensors import TensorSpec

FREE = (-1, -1)


def raw_request(datatype: str, shape: list[int], *buffers: bytes, name: str = "x") -> Any:
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name=name, datatype=datatype, shape=shape)
    request.raw_input_contents.extend(buffers)
    return request


def typed_request(datatype: str, shape: list[int], **contents: list[Any]) -> Any:
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.add(name="x", datatype=datatype, shape=shape, contents=service_pb2.InferTensorContents(**contents))
    return request


def decode(request: Any, datatype: str, shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    arrays, raw = tensors.decode_inputs(request, [TensorSpec("x", datatype, shape)])
    return arrays["x"], raw


def echo(request: Any, datatype: str, shape: tuple[int, ...]) -> Any:
    array, raw = decode(request, datatype, shape)
    response = service_pb2.ModelInferResponse()
    tensors.add_output(response, TensorSpec("x", datatype, shape), array, raw=raw)
    return response


def refusal(request: Any, datatype: str, shape: tuple[int, ...]) -> InvalidArgumentError:
    with pytest.raises(InvalidArgumentError) as caught:
        decode(request, datatype, shape)
    assert caught.value.reason == "TENSOR_INVALID"
    assert caught.value.fields
    return caught.value


# --- round trips ------------------------------------------------------------------------------------------------------

NUMPY_DTYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip
SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)


@given(st.sampled_from(sorted(NUMPY_DTYPES)).flatmap(
    lambda name: st.tuples(st.just(name), hnp.arrays(NUMPY_DTYPES[name], SHAPES))
))  # fmt: skip
def test_raw_round_trip_is_exact(case: tuple[str, np.ndarray]) -> None:
    datatype, array = case
    request = raw_request(datatype, list(array.shape), array.tobytes())
    decoded, raw = decode(request, datatype, (-1,) * array.ndim)
    assert raw
    assert decoded.dtype == array.dtype
    assert decoded.shape == array.shape
    assert decoded.tobytes() == array.tobytes()
    assert echo(request, datatype, (-1,) * array.ndim).raw_output_contents[0] == array.tobytes()


TYPED_FIELDS = {
    "BOOL": "bool_contents", "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents",
    "UINT64": "uint64_contents", "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents",
    "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents",
}  # fmt: skip


@given(st.sampled_from(sorted(TYPED_FIELDS)).flatmap(
    lambda name: st.tuples(st.just(name), hnp.arrays(NUMPY_DTYPES[name], SHAPES))
))  # fmt: skip
def test_typed_round_trip_is_exact_and_answers_typed(case: tuple[str, np.ndarray]) -> None:
    datatype, array = case
    request = typed_request(datatype, list(array.shape), **{TYPED_FIELDS[datatype]: array.ravel().tolist()})
    decoded, raw = decode(request, datatype, (-1,) * array.ndim)
    assert not raw
    np.testing.assert_array_equal(decoded, array)
    response = echo(request, datatype, (-1,) * array.ndim)
    assert not response.raw_output_contents
    assert list(getattr(response.outputs[0].contents, TYPED_FIELDS[datatype])) == pytest.approx(
        array.ravel().tolist(), nan_ok=True, rel=0, abs=0
    )


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_bytes_round_trip_raw_and_typed(elements: list[bytes]) -> None:
    buffer = b"".join(struct.pack("<I", len(element)) + element for element in elements)
    decoded, _ = decode(raw_request("BYTES", [len(elements)], buffer), "BYTES", (-1,))
    assert decoded.tolist() == elements
    assert tensors.to_raw(decoded, "BYTES") == buffer
    typed = echo(typed_request("BYTES", [len(elements)], bytes_contents=elements), "BYTES", (-1,))
    assert list(typed.outputs[0].contents.bytes_contents) == elements


@given(st.binary(max_size=40), st.integers(0, 5))
def test_any_bytes_buffer_is_decoded_or_refused(buffer: bytes, count: int) -> None:
    request = raw_request("BYTES", [count], buffer)
    try:
        decoded, _ = decode(request, "BYTES", (-1,))
    except InvalidArgumentError:
        refusal(request, "BYTES", (-1,))
    else:
        assert tensors.to_raw(decoded, "BYTES") == buffer


@given(hnp.arrays(np.float64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5)))
def test_unmodified_client_encodes_and_decodes(array: np.ndarray) -> None:
    given_input = InferInput("x", list(array.shape), "FP64")
    given_input.set_data_from_numpy(array)
    request = service_pb2.ModelInferRequest(model_name="m")
    request.inputs.append(given_input._get_tensor())
    request.raw_input_contents.append(given_input._get_content())
    answer = InferResult(echo(request, "FP64", FREE)).as_numpy("x")
    np.testing.assert_array_equal(answer, array)


def test_output_is_row_major_little_endian_whatever_the_strides() -> None:
    turned = np.arange(6, dtype=">f8").reshape(2, 3).T
    assert tensors.to_raw(turned, "FP64") == struct.pack("<6d", 0, 3, 1, 4, 2, 5)


# --- OIP-02: sizes that lie -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [[-1, 4], [0, -1], [2**62, 2**62], [0, 2**62], [2**63 - 1, 1], [1] * 1000])
def test_impossible_shape_is_refused_without_allocation(shape: list[int]) -> None:
    tracemalloc.start()
    error = refusal(raw_request("UINT8", shape, b"abcd"), "UINT8", FREE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "x" in error.message
    assert peak < 1 << 20
    good, _ = decode(raw_request("UINT8", [1, 4], b"abcd"), "UINT8", FREE)
    assert good.tolist() == [[97, 98, 99, 100]]


def test_shape_and_bytes_must_agree() -> None:
    error = refusal(raw_request("FP64", [2, 2], bytes(31)), "FP64", FREE)
    assert error.metadata == {"tensor": "x", "expected": "32 bytes for FP64 [2, 2]", "received": "31 bytes"}
    assert list(error.fields) == ["raw_input_contents[0]"]
    refusal(typed_request("FP64", [2, 2], fp64_contents=[1.0]), "FP64", FREE)


# --- OIP-04: BOOL -----------------------------------------------------------------------------------------------------


def test_bool_echoes_equal_in_both_forms() -> None:
    typed = echo(typed_request("BOOL", [3], bool_contents=[True, False, True]), "BOOL", (-1,))
    raw = echo(raw_request("BOOL", [3], b"\x01\x00\x01"), "BOOL", (-1,))
    assert list(typed.outputs[0].contents.bool_contents) == [True, False, True]
    assert raw.raw_output_contents[0] == b"\x01\x00\x01"


def test_bool_byte_two_is_refused() -> None:
    assert "BOOL" in refusal(raw_request("BOOL", [1], b"\x02"), "BOOL", (-1,)).message


# --- OIP-06: mixed forms ----------------------------------------------------------------------------------------------


def two_inputs(a_typed: bool, b_typed: bool, buffers: int) -> Any:
    request = service_pb2.ModelInferRequest(model_name="m")
    for name, typed in (("a", a_typed), ("b", b_typed)):
        tensor = request.inputs.add(name=name, datatype="FP32", shape=[1])
        if typed:
            tensor.contents.fp32_contents.append(1.0)
    request.raw_input_contents.extend([struct.pack("<f", 1.0)] * buffers)
    return request


@pytest.mark.parametrize(
    ("a_typed", "b_typed", "buffers", "named"),
    [
        (True, False, 1, "a"),
        (False, False, 1, "b"),
        (True, True, 2, "a"),
        (False, True, 2, "b"),
        (True, False, 0, "b"),
        (False, False, 3, "raw_input_contents"),
    ],
)
def test_mixed_forms_are_refused_naming_the_tensor(a_typed: bool, b_typed: bool, buffers: int, named: str) -> None:
    specs = [TensorSpec("a", "FP32", (-1,)), TensorSpec("b", "FP32", (-1,))]
    with pytest.raises(InvalidArgumentError) as caught:
        tensors.decode_inputs(two_inputs(a_typed, b_typed, buffers), specs)
    assert caught.value.reason == "TENSOR_INVALID"
    assert caught.value.message.startswith(("tensor " + repr(named), named))


def test_several_inputs_in_any_order() -> None:
    specs = [TensorSpec("b", "FP32", (-1,)), TensorSpec("a", "FP32", (-1,))]
    arrays, raw = tensors.decode_inputs(two_inputs(False, False, 2), specs)
    assert raw
    assert sorted(arrays) == ["a", "b"]


# --- OIP-08, OIP-09: half precision -----------------------------------------------------------------------------------


def test_fp16_raw_echoes_byte_for_byte_and_typed_is_refused() -> None:
    wire = bytes.fromhex("003eff7b662e")
    decoded, _ = decode(raw_request("FP16", [3], wire), "FP16", (-1,))
    assert decoded.tolist() == pytest.approx([1.5, 65504.0, 0.1], rel=1e-3)
    assert echo(raw_request("FP16", [3], wire), "FP16", (-1,)).raw_output_contents[0] == wire
    error = refusal(typed_request("FP16", [3], fp32_contents=[1.5, 65504.0, 0.1]), "FP16", (-1,))
    assert "send FP16 raw" in error.message


def test_bf16_rounds_to_nearest_even() -> None:
    wire = np.array([0.01], dtype=ml_dtypes.bfloat16).tobytes()
    assert wire == struct.pack("<H", 0x3C24)
    decoded, _ = decode(raw_request("BF16", [1], wire), "BF16", (-1,))
    doubled = tensors.to_raw(decoded + decoded, "BF16")
    assert np.frombuffer(doubled, dtype=ml_dtypes.bfloat16).astype(np.float64).tolist() == [0.02001953125]
    assert "send BF16 raw" in refusal(typed_request("BF16", [1], fp32_contents=[0.01]), "BF16", (-1,)).message


def test_bf16_from_the_unmodified_client() -> None:
    given_input = InferInput("x", [1], "BF16")
    given_input.set_data_from_numpy(np.array([0.01], dtype=ml_dtypes.bfloat16))
    request = service_pb2.ModelInferRequest(inputs=[given_input._get_tensor()])
    request.raw_input_contents.append(given_input._get_content())
    decoded, _ = decode(request, "BF16", (-1,))
    assert decoded.astype(np.float64).tolist() == [0.010009765625]


# --- OIP-10, OIP-11: BYTES --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "wire"),
    [
        ([b"ABC"], "03000000414243"),
        ([b"", b"\x00\xff", "é".encode()], "000000000200000000ff02000000c3a9"),
    ],
)
def test_bytes_framing_is_little_endian(elements: list[bytes], wire: str) -> None:
    buffer = bytes.fromhex(wire)
    decoded, _ = decode(raw_request("BYTES", [len(elements)], buffer), "BYTES", (-1,))
    assert decoded.tolist() == elements
    assert tensors.to_raw(decoded, "BYTES") == buffer


@pytest.mark.parametrize(
    ("count", "buffer"),
    [
        (1, b"\xff\xff\xff\xff\x41"),
        (1, struct.pack("<I", 10) + b"abc"),
        (1, struct.pack(">I", 3) + b"ABC"),
        (2, struct.pack("<I", 3) + b"ABC"),
        (2, struct.pack("<I", 9) + b"ABCDEFGHI"),
        (1, (struct.pack("<I", 1) + b"A") * 2),
        (1, struct.pack("<I", 1) + b"A!"),
        (2**40, b""),
        (0, b"\x00"),
    ],
)
def test_lying_bytes_buffer_is_refused_without_allocation(count: int, buffer: bytes) -> None:
    tracemalloc.start()
    error = refusal(raw_request("BYTES", [count], buffer), "BYTES", (-1,))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.metadata["tensor"] == "x"
    assert peak < 1 << 20


# --- OIP-13, OIP-14: shapes -------------------------------------------------------------------------------------------


def test_empty_batch_is_an_array_without_rows() -> None:
    decoded, _ = decode(raw_request("FP32", [0, 4], b""), "FP32", (-1, 4))
    assert decoded.shape == (0, 4)
    typed, _ = decode(typed_request("FP32", [0, 4]), "FP32", (-1, 4))
    assert typed.shape == (0, 4)


def test_missing_batch_dimension_is_explained() -> None:
    error = refusal(raw_request("FP32", [3], bytes(12)), "FP32", (-1, 3))
    assert error.message == (
        "tensor 'x': expected shape [-1, 3], received shape [3]; "
        "the first dimension is the batch: send [1, 3] for one row"
    )
    assert error.fields == {
        "inputs[0].shape": "expected shape [-1, 3], received shape [3]; "
        "the first dimension is the batch: send [1, 3] for one row"
    }


# --- names, datatypes, options ----------------------------------------------------------------------------------------


def test_wrong_names_and_counts_are_refused() -> None:
    error = refusal(raw_request("FP32", [1], bytes(4), name="y" * 500), "FP32", (-1,))
    assert error.fields["inputs[0].name"].startswith("expected the tensors ['x']")
    assert len(error.message) < 250
    refusal(service_pb2.ModelInferRequest(), "FP32", (-1,))
    twice = raw_request("FP32", [1], bytes(4), bytes(4))
    twice.inputs.add(name="x", datatype="FP32", shape=[1])
    refusal(twice, "FP32", (-1,))
    with pytest.raises(InvalidArgumentError, match="a second time"):
        tensors.decode_inputs(twice, [TensorSpec("x", "FP32", (-1,)), TensorSpec("y", "FP32", (-1,))])


def test_wrong_datatype_and_wrong_field_are_refused() -> None:
    assert "FP64" in refusal(raw_request("FP32", [1], bytes(4)), "FP64", (-1,)).message
    refusal(typed_request("INT32", [1], int64_contents=[1]), "INT32", (-1,))
    refusal(typed_request("INT32", [1], int_contents=[1], fp32_contents=[1.0]), "INT32", (-1,))
    refusal(typed_request("INT8", [1], int_contents=[300]), "INT8", (-1,))
    refusal(typed_request("UINT8", [1], uint_contents=[256]), "UINT8", (-1,))


def test_shared_memory_is_not_offered() -> None:
    request = raw_request("FP32", [1], bytes(4))
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(UnimplementedError):
        decode(request, "FP32", (-1,))


def test_requested_outputs() -> None:
    specs = [TensorSpec("p", "FP64", (-1, 1)), TensorSpec("q", "FP64", (-1, 1))]
    request = service_pb2.ModelInferRequest()
    assert tensors.check_outputs(request, specs) == specs
    request.outputs.add(name="q")
    assert tensors.check_outputs(request, specs) == specs[1:]
    request.outputs[0].parameters["classification"].int64_param = 1
    with pytest.raises(UnimplementedError):
        tensors.check_outputs(request, specs)
    with pytest.raises(InvalidArgumentError) as caught:
        tensors.check_outputs(service_pb2.ModelInferRequest(outputs=[{"name": "nope"}]), specs)
    assert caught.value.reason == "TENSOR_INVALID"
