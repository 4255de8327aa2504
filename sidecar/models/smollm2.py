"""Makes packs of SmolLM2-135M-Instruct (https://arxiv.org/abs/2502.02737) from its GGUF file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.models.errors import SetupError
from sidecar.models.gguf_file import Gguf, read_gguf
from sidecar.models.gguf_tokenizer import tokenizer_config, tokenizer_json
from sidecar.models.graph_builder import GraphBuilder
from sidecar.models.llama_graph import LlamaShape, build_graph
from sidecar.models.llama_weights import FloatWeights, Int4Weights

if TYPE_CHECKING:
    from pathlib import Path

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WEIGHTS_FILE = "model.onnx.data"


def build_smollm2(folder: Path) -> None:
    """Replaces the GGUF file in the folder by a decoder with weights of 4 bits.

    Raises `SetupError` if the file is damaged or not that of this model.
    """
    _build(folder, Int4Weights)


def build_smollm2_fp32(folder: Path) -> None:
    """Replaces the GGUF file in the folder by a decoder in float32, with the same weights.

    Raises `SetupError` if the file is damaged or not that of this model.
    """
    _build(folder, FloatWeights)


def _build(folder: Path, kind: type[FloatWeights | Int4Weights]) -> None:
    source = folder / GGUF_FILE
    gguf = read_gguf(source)
    try:
        shape = _shape(gguf)
        files = {
            "config.json": _config(gguf, shape),
            "generation_config.json": _token_ids(gguf),
            "tokenizer.json": tokenizer_json(gguf.metadata),
            "tokenizer_config.json": tokenizer_config(gguf.metadata),
        }
    except KeyError as error:
        raise SetupError(f"{source}: has no {error}; it is another model") from error
    _write_graph(folder, gguf, shape, kind)
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=2)
        (folder / name).write_text(text + "\n", encoding="utf-8")
    source.unlink()


def _write_graph(
    folder: Path, gguf: Gguf, shape: LlamaShape, kind: type[FloatWeights | Int4Weights]
) -> None:
    embeddings = gguf.tensor("token_embd.weight", "Q8_0", shape.vocabulary)
    with (folder / _WEIGHTS_FILE).open("wb") as file:
        graph = GraphBuilder(file, _WEIGHTS_FILE)
        model = build_graph(graph, kind(graph, embeddings), gguf, shape, "SmolLM2-135M-Instruct")
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


def _shape(gguf: Gguf) -> LlamaShape:
    found = gguf.metadata
    architecture = found["general.architecture"]
    if architecture != "llama":
        raise SetupError(f"{gguf.path}: is of the architecture {architecture}, not llama")
    return LlamaShape(
        layers=found["llama.block_count"],
        hidden=found["llama.embedding_length"],
        wide=found["llama.feed_forward_length"],
        heads=found["llama.attention.head_count"],
        kv_heads=found["llama.attention.head_count_kv"],
        head_size=found["llama.rope.dimension_count"],
        vocabulary=found["llama.vocab_size"],
        context=found["llama.context_length"],
        theta=found["llama.rope.freq_base"],
        epsilon=found["llama.attention.layer_norm_rms_epsilon"],
    )


def _config(gguf: Gguf, shape: LlamaShape) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_size,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.wide,
        "hidden_act": "silu",
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": shape.context,
        "rope_theta": shape.theta,
        # The shortest number that is this float32: 1e-05, not 9.999999747378752e-06.
        "rms_norm_eps": float(str(np.float32(shape.epsilon))),
        "tie_word_embeddings": True,
        **_token_ids(gguf),
    }


def _token_ids(gguf: Gguf) -> dict[str, Any]:
    return {
        f"{ours}_token_id": gguf.metadata[f"tokenizer.ggml.{theirs}_token_id"]
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))
    }
