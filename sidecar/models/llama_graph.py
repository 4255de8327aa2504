"""Builds the ONNX graph of a Llama decoder (https://arxiv.org/abs/2302.13971) with a KV cache.

The interface is that of a Hugging Face export, but for the logits, which are those of the last
position only. `GroupQueryAttention` writes keys and values behind those that are there, so that
one buffer may be bound as past and present, and nothing is copied from step to step.

Keys, after their rotation (https://arxiv.org/abs/2104.09864), and values are rounded to float16
before attention sees them. A cache of them can hold 2 bytes a number and loses nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from sidecar.models.graph_builder import FUSED

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import ModelProto, ValueInfoProto

    from sidecar.models.gguf_file import Gguf
    from sidecar.models.graph_builder import GraphBuilder
    from sidecar.models.llama_weights import Weights

_LARGEST_FLOAT16 = 65504.0


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """Sizes of a Llama model; ``theta`` and ``epsilon`` are of its rotation and its norms."""

    layers: int
    hidden: int
    wide: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    theta: float
    epsilon: float


def build_graph(
    graph: GraphBuilder, weights: Weights, gguf: Gguf, shape: LlamaShape, name: str
) -> ModelProto:
    """Returns the graph; the same weights always give the same bytes.

    Inputs: ``input_ids``, int64 ``[batch, sequence]``; ``attention_mask``, int64 ``[batch,
    total]``, with a 1 for each token in the cache and in this run, zeros only at the end;
    ``past_key_values.N.key`` and ``.value``, float32 ``[batch, kv_heads, past, head_size]``.
    Outputs: ``logits``, float32 ``[batch, 1, vocabulary]``, and ``present.N.key`` and ``.value``.
    Raises `SetupError` if a weight is missing.
    """
    decoder = _Decoder(graph, weights, gguf, shape)
    decoder.build()
    inputs, outputs = _interface(shape)
    return graph.model(name, inputs, outputs, ir_version=10, opset=21)


def _interface(shape: LlamaShape) -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    info, float32, int64 = helper.make_tensor_value_info, TensorProto.FLOAT, TensorProto.INT64
    inputs = [
        info("input_ids", int64, ["batch_size", "sequence_length"]),
        info("attention_mask", int64, ["batch_size", "total_sequence_length"]),
    ]
    outputs = [info("logits", float32, ["batch_size", 1, shape.vocabulary])]
    for layer in range(shape.layers):
        for part in ("key", "value"):
            past, present = f"past_key_values.{layer}.{part}", f"present.{layer}.{part}"
            inputs.append(info(past, float32, _kv_sizes(shape, "past_sequence_length")))
            outputs.append(info(present, float32, _kv_sizes(shape, "present_sequence_length")))
    return inputs, outputs


def _kv_sizes(shape: LlamaShape, tokens: str) -> list[str | int | None]:
    return ["batch_size", shape.kv_heads, tokens, shape.head_size]


class _Decoder:
    def __init__(
        self, graph: GraphBuilder, weights: Weights, gguf: Gguf, shape: LlamaShape
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.gguf = gguf
        self.shape = shape

    def build(self) -> None:
        self.positions()
        self.rotation()
        state = self.weights.embed("input_ids", "embedded")
        gamma = self.gamma("blk.0.attn_norm")
        norm = {"epsilon": self.shape.epsilon}
        normed = self.graph.node(
            "SimplifiedLayerNormalization", [state, gamma], "layer.0.normed", axis=-1, **norm
        )
        for layer in range(self.shape.layers):
            last = layer == self.shape.layers - 1
            attended = self.attention(layer, normed)
            if last:  # nothing of the other positions is needed from here on
                attended = self.last_position(attended, "last.attended")
                state = self.last_position(state, "last.state")
            projected = self.linear(attended, layer, ["attn_output"], f"layer.{layer}.projected")
            normed, state = self.add_and_norm(
                projected, state, f"blk.{layer}.ffn_norm", f"layer.{layer}.middle"
            )
            output = self.feed_forward(layer, normed)
            following = "output_norm" if last else f"blk.{layer + 1}.attn_norm"
            result = "final" if last else f"layer.{layer + 1}"
            normed, state = self.add_and_norm(output, state, following, result)
        self.weights.head(normed, "logits")

    def positions(self) -> None:
        """Adds what each row has in the cache, and the positions of its tokens in this run.

        A row shorter than its batch mates ends with zeros in its mask.
        """
        node, ints = self.graph.node, self.ints
        one, row = ints("one", 1), ints("axis.row", [1])
        node("ReduceSum", ["attention_mask", row], "lengths", keepdims=1)
        node("Sub", ["lengths", one], "lengths.less.one")
        node("Squeeze", ["lengths.less.one", row], "lengths.flat")
        node("Cast", ["lengths.flat"], "seqlens_k", to=TensorProto.INT32)
        node("Shape", ["attention_mask"], "mask.shape")
        node("Gather", ["mask.shape", one], "mask.total")
        node("Cast", ["mask.total"], "total_sequence_length", to=TensorProto.INT32)
        node("Shape", ["input_ids"], "ids.shape")
        node("Gather", ["ids.shape", one], "run")
        node("Sub", ["lengths", "run"], "past.or.less")
        node("Max", ["past.or.less", ints("zero", 0)], "past")
        node("Range", ["zero", "run", one], "run.positions")
        node("Add", ["past", "run.positions"], "positions")
        node("Min", ["lengths", "run"], "run.lengths")
        node("Sub", ["run.lengths", one], "last.of.run")
        node("Unsqueeze", ["last.of.run", row], "last.of.run.index")

    def rotation(self) -> None:
        """Adds the table of angles, computed as in the reference implementation: in float32.

        Only its cosines are computed with more, and rounded, to be the same on every machine.
        """
        size = self.shape.head_size
        powers = np.float64(self.shape.theta) ** (np.arange(0, size, 2) / size)
        frequencies = np.float32(1) / powers.astype(np.float32)
        angles = np.arange(self.shape.context, dtype=np.float32)[:, None] * frequencies
        exact = angles.astype(np.float64)
        self.graph.constant("cosines", np.cos(exact).astype(np.float32))
        self.graph.constant("sines", np.sin(exact).astype(np.float32))

    def attention(self, layer: int, normed: str) -> str:
        shape, node, name = self.shape, self.graph.node, f"layer.{layer}"
        packed = self.linear(normed, layer, ["attn_q", "attn_k", "attn_v"], f"{name}.qkv")
        queries, keys = shape.heads * shape.head_size, shape.kv_heads * shape.head_size
        parts = self.ints("parts.qk.v", [queries + keys, keys])
        node("Split", [packed, parts], [f"{name}.qk", f"{name}.v"], axis=-1)
        inputs = [f"{name}.qk", "positions", "cosines", "sines"]
        node("RotaryEmbedding", inputs, f"{name}.rotated", domain=FUSED)
        parts = self.ints("parts.q.k", [queries, keys])
        node("Split", [f"{name}.rotated", parts], [f"{name}.q", f"{name}.k"], axis=-1)
        cache = [f"{layer}.key", f"{layer}.value"]
        return node(
            "GroupQueryAttention",
            [
                f"{name}.q",
                self.round_to_float16(f"{name}.k"),
                self.round_to_float16(f"{name}.v"),
                *(f"past_key_values.{part}" for part in cache),
                "seqlens_k",
                "total_sequence_length",
            ],
            [f"{name}.attended", *(f"present.{part}" for part in cache)],
            domain=FUSED,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            scale=shape.head_size**-0.5,
        )

    def round_to_float16(self, source: str) -> str:
        """Adds rounding; what float16 cannot hold becomes its largest number."""
        node = self.graph.node
        limits = [
            self.graph.constant("float16.lowest", np.array(-_LARGEST_FLOAT16, np.float32)),
            self.graph.constant("float16.largest", np.array(_LARGEST_FLOAT16, np.float32)),
        ]
        clipped = node("Clip", [source, *limits], f"{source}.clipped")
        half = node("Cast", [clipped], f"{source}.half", to=TensorProto.FLOAT16)
        return node("Cast", [half], f"{source}.rounded", to=TensorProto.FLOAT)

    def feed_forward(self, layer: int, normed: str) -> str:
        """Adds SwiGLU (https://arxiv.org/abs/2002.05202); `QuickGelu` with alpha 1 is SiLU."""
        node, name = self.graph.node, f"layer.{layer}"
        packed = self.linear(normed, layer, ["ffn_gate", "ffn_up"], f"{name}.gate_up")
        node("Split", [packed], [f"{name}.gate", f"{name}.up"], axis=-1, num_outputs=2)
        active = node("QuickGelu", [f"{name}.gate"], f"{name}.active", domain=FUSED, alpha=1.0)
        gated = node("Mul", [active, f"{name}.up"], f"{name}.gated")
        return self.linear(gated, layer, ["ffn_down"], f"{name}.output")

    def linear(self, source: str, layer: int, names: list[str], output: str) -> str:
        """Adds one product with matrices of the layer that have the same input."""
        matrices = [self.matrix(layer, name) for name in names]
        return self.weights.linear(source, np.concatenate(matrices), output)

    def matrix(self, layer: int, name: str) -> NDArray[Any]:
        shape = self.shape
        rows = {
            "attn_q": shape.heads * shape.head_size,
            "attn_k": shape.kv_heads * shape.head_size,
            "attn_v": shape.kv_heads * shape.head_size,
            "ffn_gate": shape.wide,
            "ffn_up": shape.wide,
        }.get(name, shape.hidden)
        matrix = self.gguf.tensor(f"blk.{layer}.{name}.weight", "Q4_1", rows)
        if name not in ("attn_q", "attn_k"):
            return matrix
        # GGUF has the two numbers of a rotated pair next to each other; put all first ones first.
        pairs = matrix.reshape(-1, shape.head_size // 2, 2, matrix.shape[1])
        return pairs.swapaxes(1, 2).reshape(matrix.shape)

    def add_and_norm(self, added: str, state: str, norm: str, output: str) -> tuple[str, str]:
        """Adds to the state and normalises it; returns the normalised and the new state."""
        results = [f"{output}.normed", "", "", f"{output}.state"]
        if output == "final":
            results = results[:1]
        self.graph.node(
            "SkipSimplifiedLayerNormalization",
            [added, state, self.gamma(norm)],
            results,
            domain=FUSED,
            epsilon=self.shape.epsilon,
        )
        return results[0], results[-1]

    def gamma(self, name: str) -> str:
        value = self.gguf.tensor(f"{name}.weight", "F32", self.shape.hidden)
        return self.graph.constant(f"{name}.weight", value)

    def last_position(self, source: str, output: str) -> str:
        return self.graph.node("GatherND", [source, "last.of.run.index"], output, batch_dims=1)

    def ints(self, name: str, value: int | list[int]) -> str:
        return self.graph.constant(name, np.array(value, np.int64))
