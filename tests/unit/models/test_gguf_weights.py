"""Weights in blocks: unpacked as GGUF's own library does, and multiplied without rounding them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from sidecar.models.gguf_weights import unpack_q4_1, unpack_q8_0
from sidecar.models.graph_builder import GraphBuilder
from sidecar.models.llama_weights import FloatWeights, Int4Weights

if TYPE_CHECKING:
    from numpy.typing import NDArray

ROWS, BLOCKS = 16, 3


@st.composite
def q4_1(draw: st.DrawFn) -> NDArray[Any]:
    """Rows of blocks with scales and minima that float32 adds and multiplies without rounding."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    ends = rng.integers(-1024, 1024, (ROWS, BLOCKS, 2)) / 64
    quants = rng.integers(0, 256, (ROWS, BLOCKS, 16), np.uint8)
    blocks = [ends.astype("<f2").view(np.uint8).reshape(ROWS, BLOCKS, 4), quants]
    return np.concatenate(blocks, axis=-1).reshape(ROWS, -1)


def embeddings(seed: int) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    scales = (rng.integers(-1024, 1024, (ROWS, BLOCKS, 1)) / 64).astype("<f2").view(np.uint8)
    quants = rng.integers(0, 256, (ROWS, BLOCKS, 32), np.uint8)
    return np.concatenate([scales, quants], axis=-1).reshape(ROWS, -1)


def run(graph: GraphBuilder, value: NDArray[Any], kind: int = TensorProto.FLOAT) -> NDArray[Any]:
    model = graph.model(
        "test",
        [helper.make_tensor_value_info("x", kind, [None] * value.ndim)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        ir_version=10,
        opset=21,
    )
    (found,) = ort.InferenceSession(model.SerializeToString()).run(["y"], {"x": value})
    return np.asarray(found)


@settings(max_examples=20)
@given(q4_1())
def test_q4_1_is_unpacked_as_by_the_library_of_the_format(rows: NDArray[Any]) -> None:
    expected = dequantize(rows, GGMLQuantizationType.Q4_1)
    np.testing.assert_array_equal(unpack_q4_1(rows).dequantised(), expected)


@settings(max_examples=20)
@given(st.integers(0, 2**32))
def test_q8_0_is_unpacked_as_by_the_library_of_the_format(seed: int) -> None:
    rows = embeddings(seed)
    expected = dequantize(rows, GGMLQuantizationType.Q8_0)
    np.testing.assert_array_equal(unpack_q8_0(rows).dequantised(), expected)


@pytest.mark.parametrize("kind", [FloatWeights, Int4Weights])
@settings(max_examples=10)
@given(q4_1())
def test_a_product_has_exactly_the_weights_of_the_file(
    kind: type[FloatWeights | Int4Weights], rows: NDArray[Any]
) -> None:
    """An activation of 127 is rounded to 8 bits as it is, so that only weights could be wrong."""
    graph = GraphBuilder()
    kind(graph, embeddings(0)).linear("x", rows, "y")
    probe = np.eye(BLOCKS * 32, dtype=np.float32)[None] * 127
    expected = unpack_q4_1(rows).dequantised().T * 127
    np.testing.assert_array_equal(run(graph, probe)[0], expected)


@pytest.mark.parametrize("kind", [FloatWeights, Int4Weights])
def test_embeddings_are_looked_up_exactly(kind: type[FloatWeights | Int4Weights]) -> None:
    graph, ids = GraphBuilder(), np.array([[3, 0, 15], [1, 1, 7]])
    kind(graph, embeddings(1)).embed("x", "y")
    expected = unpack_q8_0(embeddings(1)).dequantised()[ids]
    np.testing.assert_array_equal(run(graph, ids, TensorProto.INT64), expected)


@pytest.mark.parametrize("kind", [FloatWeights, Int4Weights])
def test_the_head_has_exactly_the_embeddings(kind: type[FloatWeights | Int4Weights]) -> None:
    graph = GraphBuilder()
    kind(graph, embeddings(2)).head("x", "y")
    table = unpack_q8_0(embeddings(2)).dequantised()
    probe = np.zeros((1, 1, BLOCKS * 32), np.float32)
    probe[..., 37] = 127
    np.testing.assert_array_equal(run(graph, probe)[0, 0], table[:, 37] * 127)
