"""Weights of a Llama model from a GGUF file, in two precisions.

Both hold exactly the numbers of the file: Q4_1 matrices, and embeddings in Q8_0 that are also the
output layer. They differ in what a product with them is computed in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from onnx import TensorProto

from sidecar.models.gguf_weights import BLOCK, pack_pairs, unpack_q4_1, unpack_q8_0
from sidecar.models.graph_builder import FUSED

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sidecar.models.graph_builder import GraphBuilder

_INT8_ACTIVATIONS = 4  # `accuracy_level`; without it decoding is ten times slower


class Weights(Protocol):
    """How a graph multiplies with the weights; matrices are rows of Q4_1 blocks."""

    def embed(self, ids: str, output: str) -> str:
        """Adds the look-up of tokens, int64 ``[batch, sequence]``."""

    def linear(self, source: str, matrix: NDArray[Any], output: str) -> str:
        """Adds the product of ``[batch, sequence, columns]`` with the matrix, transposed."""

    def head(self, source: str, output: str) -> str:
        """Adds the product of ``[batch, 1, columns]`` with the embeddings, transposed."""


class FloatWeights:
    """Everything in float32."""

    def __init__(self, graph: GraphBuilder, embeddings: NDArray[Any]) -> None:
        self._graph = graph
        graph.constant("embeddings", unpack_q8_0(embeddings).dequantised())

    def embed(self, ids: str, output: str) -> str:
        """See `Weights`."""
        return self._graph.node("Gather", ["embeddings", ids], output)

    def linear(self, source: str, matrix: NDArray[Any], output: str) -> str:
        """See `Weights`."""
        numbers = unpack_q4_1(matrix).dequantised().T
        weight = self._graph.constant(f"{output}.weight", numbers)
        return self._graph.node("MatMul", [source, weight], output)

    def head(self, source: str, output: str) -> str:
        """See `Weights`. `Gemm` takes the embeddings as they are: a copy would be 113 MB."""
        axis = self._graph.constant("head.axis", np.array([1], np.int64))
        flat = self._graph.node("Squeeze", [source, axis], f"{output}.state")
        product = self._graph.node("Gemm", [flat, "embeddings"], f"{output}.flat", transB=1)
        return self._graph.node("Unsqueeze", [product, axis], output)


class Int4Weights:
    """Matrices in 4 bits, embeddings in 8; activations are rounded to 8 bits for a product.

    `MatMulNBits` is fast only for weights ``scale * (quant - 8)``. What those of Q4_1 have beyond
    that is one number for each block, ``minimum + 8 * scale``; its product with the block's sum
    of activations is added in float32. Rounding it away ruins the model.
    """

    def __init__(self, graph: GraphBuilder, embeddings: NDArray[Any]) -> None:
        self._graph = graph
        self._sums: dict[str, str] = {}
        scales, quants = unpack_q8_0(embeddings)
        self._rows, self._blocks = scales.shape
        graph.constant("embeddings.scales", scales)
        # `MatMulNBits` has numbers of 8 bits from 0 to 255 around 128.
        graph.constant("embeddings.quants", quants.view(np.uint8) ^ 128)

    def embed(self, ids: str, output: str) -> str:
        """See `Weights`."""
        graph = self._graph
        found = graph.node("Gather", ["embeddings.quants", ids], f"{output}.quants")
        numbers = graph.node("Cast", [found], f"{output}.numbers", to=TensorProto.FLOAT)
        middle = graph.constant(f"{output}.middle", np.array(128, np.float32))
        signed = graph.node("Sub", [numbers, middle], f"{output}.signed")
        scale = graph.node("Gather", ["embeddings.scales", ids], f"{output}.scale")
        last = graph.constant("axis.last", np.array([-1], np.int64))
        column = graph.node("Unsqueeze", [scale, last], f"{output}.column")
        scaled = graph.node("Mul", [signed, column], f"{output}.scaled")
        width = np.array([0, 0, self._blocks * BLOCK], np.int64)
        shape = graph.constant(f"{output}.shape", width)
        return graph.node("Reshape", [scaled, shape], output)

    def linear(self, source: str, matrix: NDArray[Any], output: str) -> str:
        """See `Weights`."""
        graph, weights = self._graph, unpack_q4_1(matrix)
        rows, blocks = weights.scales.shape
        symmetric = graph.node(
            "MatMulNBits",
            [
                source,
                graph.constant(f"{output}.quants", pack_pairs(weights.quants)),
                graph.constant(f"{output}.scales", weights.scales),
            ],
            f"{output}.symmetric",
            **_product(rows, blocks, bits=4),
        )
        rest = graph.constant(f"{output}.rest", (weights.minima + 8 * weights.scales).T)
        correction = graph.node(
            "MatMul", [self._block_sums(source, blocks), rest], f"{output}.correction"
        )
        return graph.node("Add", [symmetric, correction], output)

    def head(self, source: str, output: str) -> str:
        """See `Weights`."""
        inputs = [source, "embeddings.quants", "embeddings.scales"]
        product = _product(self._rows, self._blocks, bits=8)
        return self._graph.node("MatMulNBits", inputs, output, **product)

    def _block_sums(self, source: str, blocks: int) -> str:
        if source not in self._sums:
            graph = self._graph
            last = graph.constant("axis.last", np.array([-1], np.int64))
            by_block = np.array([0, 0, blocks, BLOCK], np.int64)
            shape = graph.constant(f"blocks.{blocks}", by_block)
            cut = graph.node("Reshape", [source, shape], f"{source}.blocks")
            self._sums[source] = graph.node("ReduceSum", [cut, last], f"{source}.sums", keepdims=0)
        return self._sums[source]


def _product(rows: int, blocks: int, *, bits: int) -> dict[str, Any]:
    return {
        "domain": FUSED,
        "N": rows,
        "K": blocks * BLOCK,
        "bits": bits,
        "block_size": BLOCK,
        "accuracy_level": _INT8_ACTIVATIONS,
    }
