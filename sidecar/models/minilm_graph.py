"""Builds the ONNX graph of all-MiniLM-L6-v2 from its weights.

A BERT encoder (https://arxiv.org/abs/1810.04805) in ONNX Runtime's fused operators, with masked
mean pooling and L2 normalisation in the graph. `BiasGelu` is the exact GELU that the model was
trained with; `FastGelu`, its approximation, moves the vectors by 5e-4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from sidecar.models.errors import SetupError
from sidecar.models.graph_builder import FUSED, GraphBuilder
from sidecar.models.safetensors import read_safetensors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import ModelProto, ValueInfoProto

_LAYERS = 6
_HEADS = 12
_HIDDEN = 384
_EPSILON = 1e-12


def build_minilm(folder: Path) -> None:
    """Replaces ``model.safetensors`` in the folder by ``model.onnx``.

    Raises `SetupError` if the weights are damaged or not those of this model.
    """
    source = folder / "model.safetensors"
    try:
        model = build_graph(read_safetensors(source))
    except KeyError as error:
        raise SetupError(f"{source}: has no weight {error}; it is another model") from error
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    source.unlink()


def build_graph(weights: Mapping[str, NDArray[Any]]) -> ModelProto:
    """Returns the graph; the same weights always give the same bytes.

    Inputs ``input_ids`` and ``attention_mask``, int64 ``[batch, sequence]``. Outputs
    ``token_embeddings``, float32 ``[batch, sequence, 384]``, and ``sentence_embedding``, float32
    ``[batch, 384]``, of unit length. Raises `KeyError` if a weight is missing.
    """
    graph = GraphBuilder()
    graph.constant("axis.last", np.array([-1], np.int64))
    graph.constant("epsilon", np.array(_EPSILON * _HIDDEN, np.float32))
    graph.node("Cast", ["input_ids"], "ids", to=TensorProto.INT32)
    graph.node("Cast", ["attention_mask"], "mask", to=TensorProto.INT32)
    state = _embeddings(graph, weights)
    for number in range(_LAYERS):
        layer = f"encoder.layer.{number}."
        last = number == _LAYERS - 1
        state = _layer(graph, weights, layer, state, "token_embeddings" if last else layer + "out")
    _pool(graph)
    inputs, outputs = _interface()
    return graph.model("all-MiniLM-L6-v2", inputs, outputs, ir_version=8, opset=18)


def _interface() -> tuple[list[ValueInfoProto], list[ValueInfoProto]]:
    info, int64, float32 = helper.make_tensor_value_info, TensorProto.INT64, TensorProto.FLOAT
    batch, tokens, numbers = "batch", "sequence", _HIDDEN
    inputs = [info(name, int64, [batch, tokens]) for name in ("input_ids", "attention_mask")]
    outputs = [
        info("token_embeddings", float32, [batch, tokens, numbers]),
        info("sentence_embedding", float32, [batch, numbers]),
    ]
    return inputs, outputs


def _embeddings(graph: GraphBuilder, weights: Mapping[str, NDArray[Any]]) -> str:
    # All tokens are of type 0, so that row of the type table goes into the position table.
    positions = (
        weights["embeddings.position_embeddings.weight"]
        + weights["embeddings.token_type_embeddings.weight"][0]
    )
    inputs = [
        "ids",
        "",
        graph.constant("words", weights["embeddings.word_embeddings.weight"]),
        graph.constant("positions", positions),
        "",
        graph.constant("embeddings.gamma", weights["embeddings.LayerNorm.weight"]),
        graph.constant("embeddings.beta", weights["embeddings.LayerNorm.bias"]),
    ]
    results = ["embeddings", "embeddings.mask_index"]
    return graph.node("EmbedLayerNormalization", inputs, results, domain=FUSED, epsilon=_EPSILON)


def _layer(
    graph: GraphBuilder, weights: Mapping[str, NDArray[Any]], layer: str, state: str, output: str
) -> str:
    def linear(source: str, name: str) -> str:
        weight = graph.constant(f"{layer}{name}.weight", weights[f"{layer}{name}.weight"].T)
        return graph.node("MatMul", [source, weight], f"{layer}{name}")

    def bias(name: str) -> str:
        return graph.constant(f"{layer}{name}.bias", weights[f"{layer}{name}.bias"])

    def add_and_norm(source: str, skip: str, name: str, result: str) -> str:
        biased = graph.node("Add", [source, bias(f"{name}.dense")], f"{layer}{name}.biased")
        total = graph.node("Add", [biased, skip], f"{layer}{name}.total")
        return _layer_norm(graph, weights, f"{layer}{name}.LayerNorm", total, result)

    names = [f"{layer}attention.self.{part}" for part in ("query", "key", "value")]
    packed = np.concatenate([weights[f"{name}.weight"].T for name in names], axis=1)
    packed_bias = np.concatenate([weights[f"{name}.bias"] for name in names])
    inputs = [
        state,
        graph.constant(f"{layer}qkv.weight", packed),
        graph.constant(f"{layer}qkv.bias", packed_bias),
        "mask",
    ]
    attended = graph.node("Attention", inputs, f"{layer}attention", domain=FUSED, num_heads=_HEADS)
    projected = linear(attended, "attention.output.dense")
    middle = add_and_norm(projected, state, "attention.output", f"{layer}middle")
    wide = linear(middle, "intermediate.dense")
    active = graph.node(
        "BiasGelu", [wide, bias("intermediate.dense")], f"{layer}gelu", domain=FUSED
    )
    return add_and_norm(linear(active, "output.dense"), middle, "output", output)


def _layer_norm(
    graph: GraphBuilder, weights: Mapping[str, NDArray[Any]], name: str, source: str, result: str
) -> str:
    """Layer normalisation (https://arxiv.org/abs/1607.06450) in primitive operators.

    On a CPU, ONNX Runtime's own `LayerNormalization` and `SkipLayerNormalization` sum a row number
    by number; these operators use vector instructions and take a third of the time. The factor
    that makes a variance of the sum of squares is in the scale and in epsilon.
    """
    gamma = graph.constant(
        f"{name}.gamma", weights[f"{name}.weight"] * np.sqrt(np.float32(_HIDDEN))
    )
    beta = graph.constant(f"{name}.beta", weights[f"{name}.bias"])
    mean = graph.node("ReduceMean", [source, "axis.last"], f"{name}.mean")
    centred = graph.node("Sub", [source, mean], f"{name}.centred")
    squares = graph.node("ReduceSumSquare", [centred, "axis.last"], f"{name}.squares")
    positive = graph.node("Add", [squares, "epsilon"], f"{name}.positive")
    deviation = graph.node("Sqrt", [positive], f"{name}.deviation")
    unit = graph.node("Div", [centred, deviation], f"{name}.unit")
    scaled = graph.node("Mul", [unit, gamma], f"{name}.scaled")
    return graph.node("Add", [scaled, beta], result)


def _pool(graph: GraphBuilder) -> None:
    graph.node("Cast", ["attention_mask"], "weights.flat", to=TensorProto.FLOAT)
    token_axis = graph.constant("axis.token", np.array([1], np.int64))
    tiny = graph.constant("tiny", np.array(1e-9, np.float32))
    graph.node("Unsqueeze", ["weights.flat", "axis.last"], "weights")
    graph.node("Mul", ["token_embeddings", "weights"], "weighted")
    graph.node("ReduceSum", ["weighted", token_axis], "sum", keepdims=0)
    graph.node("ReduceSum", ["weights", token_axis], "count", keepdims=0)
    graph.node("Max", ["count", tiny], "count.positive")
    graph.node("Div", ["sum", "count.positive"], "mean")
    graph.node("ReduceL2", ["mean", "axis.last"], "length", keepdims=1)
    graph.node("Max", ["length", tiny], "length.positive")
    graph.node("Div", ["mean", "length.positive"], "sentence_embedding")
