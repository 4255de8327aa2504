"""The graph built from weights, against the same network in NumPy."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest

from sidecar.models.minilm_graph import build_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIDDEN, WIDE, HEADS, LAYERS = 384, 1536, 12, 6
IDS = np.array([[5, 6, 7, 8, 9], [3, 1, 4, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def numbers(*shape: int, seed: int) -> NDArray[Any]:
    """Numbers between -1/16 and 1/16, the same on every machine."""
    count = np.arange(seed, seed + math.prod(shape), dtype=np.uint64)
    mixed = (count * np.uint64(2654435761)) % np.uint64(2**32)
    return ((mixed.astype(np.float64) / 2**32 - 0.5) / 8).astype(np.float32).reshape(shape)


@pytest.fixture(scope="module")
def weights() -> dict[str, NDArray[Any]]:
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (10, HIDDEN),
        "embeddings.position_embeddings.weight": (8, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
    }
    norms = ["embeddings.LayerNorm"]
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        attention = f"{layer}.attention"
        dense = {f"{attention}.self.{part}": (HIDDEN, HIDDEN) for part in ("query", "key", "value")}
        dense |= {
            f"{attention}.output.dense": (HIDDEN, HIDDEN),
            f"{layer}.intermediate.dense": (WIDE, HIDDEN),
            f"{layer}.output.dense": (HIDDEN, WIDE),
        }
        norms += [f"{attention}.output.LayerNorm", f"{layer}.output.LayerNorm"]
        for name, shape in dense.items():
            shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    found = {name: numbers(*shape, seed=97 * i) for i, (name, shape) in enumerate(shapes.items())}
    for i, norm in enumerate(norms):
        found[f"{norm}.weight"] = 1 + numbers(HIDDEN, seed=31 * i)
        found[f"{norm}.bias"] = numbers(HIDDEN, seed=37 * i)
    return found


def bert(weights: dict[str, NDArray[Any]], ids: NDArray[Any]) -> NDArray[Any]:
    """Token states of one text without padding, in float64."""

    def linear(x: NDArray[Any], name: str) -> NDArray[Any]:
        return x @ weights[f"{name}.weight"].T.astype(np.float64) + weights[f"{name}.bias"]

    def norm(x: NDArray[Any], name: str) -> NDArray[Any]:
        centred = x - x.mean(-1, keepdims=True)
        unit = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return unit * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def heads(x: NDArray[Any]) -> NDArray[Any]:
        return x.reshape(len(x), HEADS, -1).transpose(1, 0, 2)

    table = "embeddings.{}_embeddings.weight"
    x = weights[table.format("word")][ids].astype(np.float64)
    x = x + weights[table.format("position")][: len(ids)] + weights[table.format("token_type")][0]
    x = norm(x, "embeddings.LayerNorm")
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}"
        attention = f"{layer}.attention"
        q, k, v = (heads(linear(x, f"{attention}.self.{p}")) for p in ("query", "key", "value"))
        scores = np.exp(q @ k.transpose(0, 2, 1) / math.sqrt(HIDDEN // HEADS))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        merged = linear(mixed.transpose(1, 0, 2).reshape(x.shape), f"{attention}.output.dense")
        x = norm(merged + x, f"{attention}.output.LayerNorm")
        wide = linear(x, f"{layer}.intermediate.dense")
        gelu = wide * 0.5 * (1 + np.vectorize(math.erf)(wide / math.sqrt(2)))
        x = norm(linear(gelu, f"{layer}.output.dense") + x, f"{layer}.output.LayerNorm")
    return x


def test_the_graph_computes_bert(weights: dict[str, NDArray[Any]]) -> None:
    session = ort.InferenceSession(build_graph(weights).SerializeToString())
    states, vectors = session.run(None, {"input_ids": IDS, "attention_mask": MASK})
    for row, (ids, mask) in enumerate(zip(IDS, MASK, strict=True)):
        expected = bert(weights, ids[: mask.sum()])
        mean = expected.mean(axis=0)
        np.testing.assert_allclose(states[row, : mask.sum()], expected, atol=2e-5)
        np.testing.assert_allclose(vectors[row], mean / np.linalg.norm(mean), atol=2e-6)


def test_the_same_weights_give_the_same_bytes(weights: dict[str, NDArray[Any]]) -> None:
    """Whoever changes these bytes has to raise the pack's revision, and the digest with it."""
    content = build_graph(weights).SerializeToString(deterministic=True)
    assert hashlib.sha256(content).hexdigest() == (
        "ea7ce40b2012994c6005de077d666660a97ac92ccf3f392ed3e0869beec81537"
    )


def test_a_missing_weight_is_an_error(weights: dict[str, NDArray[Any]]) -> None:
    name = "encoder.layer.5.output.dense.bias"
    with pytest.raises(KeyError, match=name):
        build_graph({key: value for key, value in weights.items() if key != name})
