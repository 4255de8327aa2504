"""The files of settings in a pack, all in one JSON object by their names. The graph is sound."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models

from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.errors import SetupError
from sidecar.models.pack import read_pack
from sidecar.models.pair_pack import read_pair_pack

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (SetupError,)
IS_JSON = True
_FOLDERS = [Path(tempfile.mkdtemp(prefix="fuzz-")) for _ in range(2)]
_FILES = {
    "config.json": {
        "model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0, "vocab_size": 4,
        "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 8, "head_dim": 4,
        "eos_token_id": [1, 2], "auto_map": {"AutoModel": "modeling.Model"},
    },
    "generation_config.json": {"eos_token_id": 1},
    "modules.json": [
        {"type": "sentence_transformers.models.Transformer", "path": ""},
        {"type": "sentence_transformers.models.Pooling", "path": "1_Pooling"},
    ],
    "1_Pooling/config.json": {"pooling_mode_cls_token": True, "include_prompt": True},
    "sentence_bert_config.json": {"max_seq_length": 256},
    "tokenizer_config.json": {
        "model_max_length": 512, "bos_token": {"content": "<s>"}, "eos_token": "</s>",
        "chat_template": [{"name": "default", "template": "{{ messages }}"}],
    },
    "config_sentence_transformers.json": {"prompts": {"query": "query: ", "passage": "passage: "}},
}  # fmt: skip


def _prepare() -> None:
    def values(**shapes: list[Any]) -> list[onnx.ValueInfoProto]:
        kinds = dict.fromkeys(("input_ids", "attention_mask"), TensorProto.INT64)
        return [
            helper.make_tensor_value_info(name, kinds.get(name, TensorProto.FLOAT), shape)
            for name, shape in shapes.items()
        ]

    text = {name: ["batch", "sequence"] for name in ("input_ids", "attention_mask")}
    past = {f"past_key_values.0.{part}": ["batch", None, "past", None] for part in ("key", "value")}
    present = {f"present.0.{part}": ["batch", None, "all", None] for part in ("key", "value")}
    for folder, inputs, outputs in (
        (_FOLDERS[0], text, {"last_hidden_state": ["batch", "sequence", 2]}),
        (_FOLDERS[1], text | past, {"logits": ["batch", "sequence", None]} | present),
    ):
        graph = helper.make_graph([], "g", values(**inputs), values(**outputs))
        onnx.save(helper.make_model(graph), folder / "model.onnx")
        Tokenizer(models.WordLevel({"a": 0}, "a")).save(str(folder / "tokenizer.json"))


_prepare()


def seeds() -> Iterator[bytes]:
    yield json.dumps(_FILES).encode()
    for name, content in _FILES.items():
        yield json.dumps({name: content}).encode()
        yield json.dumps({other: each for other, each in _FILES.items() if other != name}).encode()


def run(data: bytes) -> None:
    try:
        files = json.loads(data)
    except (ValueError, RecursionError):
        return
    error: SetupError | None = None
    taken = 0
    for folder, readers in (
        (_FOLDERS[0], (read_pack, read_pair_pack)),
        (_FOLDERS[1], (read_decoder_pack,)),
    ):
        for name in _FILES:
            path = folder / name
            path.unlink(missing_ok=True)
            if isinstance(files, dict) and name in files:
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(files[name]))
        for read in readers:
            try:
                read(folder)
                taken += 1
            except SetupError as raised:
                error = raised
    if error is not None and not taken:
        raise error
