"""The graph built from a GGUF file, against the same network in NumPy."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime as ort
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize

from sidecar.models.errors import SetupError
from sidecar.models.gguf_file import Gguf
from sidecar.models.graph_builder import GraphBuilder
from sidecar.models.llama_graph import LlamaShape, build_graph
from sidecar.models.llama_weights import FloatWeights, Int4Weights

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = LlamaShape(
    layers=2,
    hidden=64,
    wide=96,
    heads=4,
    kv_heads=2,
    head_size=16,
    vocabulary=50,
    context=40,
    theta=1e4,
    epsilon=1e-5,
)
IDS = np.array([5, 6, 7, 8, 9, 3, 1, 4, 0, 49, 2, 2])
Q4_1, Q8_0 = GGMLQuantizationType.Q4_1, GGMLQuantizationType.Q8_0


def make_gguf(path: Path, gain: float = 1.0) -> Gguf:
    """Random weights; ``gain`` makes values larger than float16 can hold, if it is large."""
    rng, tensors = np.random.default_rng(0), {}

    def add(name: str, rows: int, columns: int, kind: Any, scale: float = 1.0) -> None:
        numbers = rng.normal(size=(rows, columns)).astype(np.float32) * scale / columns**0.5
        tensors[name] = (kind.name, quantize(numbers, kind))

    keys = SHAPE.kv_heads * SHAPE.head_size
    add("token_embd.weight", SHAPE.vocabulary, SHAPE.hidden, Q8_0)
    norms = ["output_norm"]
    for layer in (f"blk.{n}." for n in range(SHAPE.layers)):
        norms += [f"{layer}attn_norm", f"{layer}ffn_norm"]
        add(f"{layer}attn_q.weight", SHAPE.hidden, SHAPE.hidden, Q4_1, 3)
        add(f"{layer}attn_k.weight", keys, SHAPE.hidden, Q4_1, 3)
        add(f"{layer}attn_v.weight", keys, SHAPE.hidden, Q4_1, gain)
        add(f"{layer}attn_output.weight", SHAPE.hidden, SHAPE.hidden, Q4_1)
        add(f"{layer}ffn_gate.weight", SHAPE.wide, SHAPE.hidden, Q4_1, 2)
        add(f"{layer}ffn_up.weight", SHAPE.wide, SHAPE.hidden, Q4_1)
        add(f"{layer}ffn_down.weight", SHAPE.hidden, SHAPE.wide, Q4_1)
    for norm in norms:
        gamma = 1 + rng.normal(size=SHAPE.hidden).astype(np.float32) / 8
        tensors[f"{norm}.weight"] = ("F32", gamma)
    return Gguf(path, {}, tensors)


def llama(gguf: Gguf, ids: NDArray[Any]) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Logits of all positions, and keys and values, in float64."""

    def weight(name: str) -> NDArray[Any]:
        kind, data = gguf.tensors[f"{name}.weight"]
        known = {"Q4_1": Q4_1, "Q8_0": Q8_0}
        return (dequantize(data, known[kind]) if kind in known else data).astype(np.float64)

    def norm(x: NDArray[Any], name: str) -> NDArray[Any]:
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + SHAPE.epsilon) * weight(name)

    def split(x: NDArray[Any]) -> NDArray[Any]:
        return x.reshape(len(x), -1, SHAPE.head_size).transpose(1, 0, 2)

    def rotate(x: NDArray[Any]) -> NDArray[Any]:
        """Turns pairs of neighbours, the order of GGUF, and puts all first ones first."""
        powers = np.arange(0, SHAPE.head_size, 2) / SHAPE.head_size
        turned = (x[..., 0::2] + 1j * x[..., 1::2]) * np.exp(
            1j * np.arange(len(ids))[:, None] / SHAPE.theta**powers
        )
        return np.concatenate([turned.real, turned.imag], axis=-1)

    def half(x: NDArray[Any]) -> NDArray[Any]:
        return x.clip(-65504, 65504).astype(np.float16).astype(np.float64)

    x, cache = weight("token_embd")[ids], {}
    future = np.triu(np.full((len(ids), len(ids)), -np.inf), 1)
    for n in range(SHAPE.layers):
        layer = f"blk.{n}."
        h = norm(x, f"{layer}attn_norm")
        q, k, v = (split(h @ weight(f"{layer}attn_{part}").T) for part in "qkv")
        q, k, v = rotate(q), half(rotate(k)), half(v)
        cache[f"{n}.key"], cache[f"{n}.value"] = k, v
        k, v = (np.repeat(part, SHAPE.heads // SHAPE.kv_heads, axis=0) for part in (k, v))
        scores = q @ k.transpose(0, 2, 1) / SHAPE.head_size**0.5 + future
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (scores / scores.sum(-1, keepdims=True)) @ v
        x = x + mixed.transpose(1, 0, 2).reshape(x.shape) @ weight(f"{layer}attn_output").T
        h = norm(x, f"{layer}ffn_norm")
        gate = h @ weight(f"{layer}ffn_gate").T
        wide = gate / (1 + np.exp(-gate)) * (h @ weight(f"{layer}ffn_up").T)
        x = x + wide @ weight(f"{layer}ffn_down").T
    return norm(x, "output_norm") @ weight("token_embd").T, cache


def make_session(gguf: Gguf, kind: type[FloatWeights | Int4Weights]) -> ort.InferenceSession:
    graph = GraphBuilder()
    weights = kind(graph, gguf.tensors["token_embd.weight"][1])
    model = build_graph(graph, weights, gguf, SHAPE, "tiny")
    return ort.InferenceSession(model.SerializeToString())


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Gguf:
    return make_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def fp32(gguf: Gguf) -> ort.InferenceSession:
    return make_session(gguf, FloatWeights)


def empty(batch: int = 1) -> dict[str, NDArray[Any]]:
    shape = (batch, SHAPE.kv_heads, 0, SHAPE.head_size)
    parts = [f"{n}.{part}" for n in range(SHAPE.layers) for part in ("key", "value")]
    return {part: np.zeros(shape, np.float32) for part in parts}


def run(
    session: ort.InferenceSession,
    ids: NDArray[Any],
    past: dict[str, NDArray[Any]],
    mask: NDArray[Any] | None = None,
) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Returns logits, and keys and values."""
    if mask is None:
        mask = np.ones((len(ids), past["0.key"].shape[2] + ids.shape[1]), np.int64)
    feed = {f"past_key_values.{part}": value for part, value in past.items()}
    found = session.run(None, {"input_ids": ids, "attention_mask": mask, **feed})
    return found[0], dict(zip(past, found[1:], strict=True))


def close(found: NDArray[Any], expected: NDArray[Any], atol: float = 2e-3) -> None:
    np.testing.assert_allclose(found, expected, atol=atol)


def test_the_graph_computes_the_last_logits_of_a_llama(gguf: Gguf, fp32: Any) -> None:
    expected, cache = llama(gguf, IDS)
    logits, present = run(fp32, IDS[None], empty())
    assert logits.shape == (1, 1, SHAPE.vocabulary)
    close(logits[0, 0], expected[-1])
    for part, value in cache.items():
        close(present[part][0], value)


def test_weights_of_4_bits_are_those_of_the_float_graph(gguf: Gguf) -> None:
    """What is left is the rounding of activations to 8 bits."""
    expected, _ = llama(gguf, IDS)
    logits, _ = run(make_session(gguf, Int4Weights), IDS[None], empty())
    close(logits[0, 0], expected[-1], atol=0.15)
    assert np.corrcoef(logits[0, 0], expected[-1])[0, 1] > 0.998


@pytest.mark.parametrize("cut", [1, 5, 11])
def test_tokens_go_on_top_of_a_past(gguf: Gguf, fp32: Any, cut: int) -> None:
    expected, cache = llama(gguf, IDS)
    _, past = run(fp32, IDS[None, :cut], empty())
    logits, present = run(fp32, IDS[None, cut:], past)
    close(logits[0, 0], expected[-1])
    for part, value in cache.items():
        close(present[part][0], value)


def test_prompts_of_different_lengths_share_a_run(gguf: Gguf, fp32: Any) -> None:
    ids, mask = np.zeros((2, len(IDS)), np.int64), np.zeros((2, len(IDS)), np.int64)
    for row, length in enumerate((len(IDS), 5)):
        ids[row, :length], mask[row, :length] = IDS[:length], 1
    logits, _ = run(fp32, ids, empty(2), mask)
    expected, _ = llama(gguf, IDS)
    close(logits[0, 0], expected[-1])
    close(logits[1, 0], expected[4])


def test_keys_and_values_are_numbers_of_float16(gguf: Gguf, fp32: Any) -> None:
    for value in run(fp32, IDS[None], empty())[1].values():
        np.testing.assert_array_equal(value.astype(np.float16).astype(np.float32), value)


def test_values_too_large_for_float16_are_its_largest(tmp_path: Path) -> None:
    session = make_session(make_gguf(tmp_path / "large.gguf", gain=1e5), FloatWeights)
    logits, present = run(session, IDS[None], empty())
    assert np.isfinite(logits).all()
    assert np.abs(present["0.value"]).max() == 65504


@pytest.mark.parametrize("kind", [FloatWeights, Int4Weights])
def test_the_same_weights_give_the_same_bytes(
    gguf: Gguf, kind: type[FloatWeights | Int4Weights]
) -> None:
    def build() -> tuple[bytes, bytes]:
        file = io.BytesIO()
        graph = GraphBuilder(file, "weights")
        weights = kind(graph, gguf.tensors["token_embd.weight"][1])
        model = build_graph(graph, weights, gguf, SHAPE, "tiny")
        return model.SerializeToString(deterministic=True), file.getvalue()

    assert build() == build()


def test_a_missing_weight_is_named(gguf: Gguf) -> None:
    tensors = {k: v for k, v in gguf.tensors.items() if k != "blk.1.ffn_up.weight"}
    with pytest.raises(SetupError, match=r"tiny\.gguf: blk\.1\.ffn_up\.weight is none.*another"):
        make_session(Gguf(gguf.path, {}, tensors), FloatWeights)
