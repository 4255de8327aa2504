from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = {"max_position_embeddings": 512, "vocab_size": 300}


@pytest.mark.parametrize(
    ("kind", "dtype", "is_in_place"),
    [
        ("in place", np.float32, True),
        ("growing", np.float32, False),
        ("half", np.float16, False),
        ("merged", np.float32, False),
    ],
)
def test_a_pack_tells_what_it_keeps_of_a_token(
    decoder_folders: dict[str, Path], kind: str, dtype: Any, is_in_place: bool
) -> None:
    pack = read_decoder_pack(decoder_folders[kind])
    kv = pack.kv
    assert (len(kv.past), kv.heads, kv.head_size, kv.dtype) == (4, 2, 16, dtype)
    assert kv.past[1] == "past_key_values.0.value"
    assert kv.present[2] == "present.1.key"
    assert kv.is_in_place == is_in_place
    assert kv.token_bytes == 4 * 2 * 16 * kv.dtype.itemsize
    assert (pack.vocabulary, pack.context_tokens, pack.end_tokens) == (300, 512, {257})
    assert pack.special_tokens == {"eos_token": "<|end|>"}


@pytest.mark.parametrize(
    "graph",
    [
        "model.onnx",
        "onnx/model.onnx",
        "decoder_model_merged.onnx",
        "onnx/decoder_model_merged.onnx",
    ],
)
def test_the_graph_may_have_any_of_the_names_that_exporters_give_it(
    make_decoder: Callable[..., Path], graph: str
) -> None:
    folder = make_decoder("merged", graph)
    assert read_decoder_pack(folder).path == folder / graph


@pytest.mark.parametrize(
    ("files", "ends"),
    [
        ({"generation_config": {"eos_token_id": [5, 7]}}, {5, 7}),
        ({"generation_config": None, "config": CONFIG | {"eos_token_id": 9}}, {9}),
        ({"generation_config": {}, "config": CONFIG | {"eos_token_id": [9]}}, {9}),
        ({"generation_config": {"eos_token_id": 0}, "config": CONFIG | {"eos_token_id": 9}}, {0}),
        ({"generation_config": None}, set()),
    ],
)
def test_the_tokens_that_end_an_answer_are_those_of_the_configuration(
    make_decoder: Callable[..., Path], files: dict[str, Any], ends: set[int]
) -> None:
    assert read_decoder_pack(make_decoder("growing", **files)).end_tokens == ends


def test_a_size_that_is_null_is_looked_for_under_its_other_names(
    make_decoder: Callable[..., Path],
) -> None:
    config = {"max_position_embeddings": None, "n_ctx": 64, "vocab_size": 300}
    assert read_decoder_pack(make_decoder("growing", config=config)).context_tokens == 64


def test_the_chat_template_may_be_in_three_places(make_decoder: Callable[..., Path]) -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    folder = make_decoder("growing", tokenizer_config={"chat_template": named})
    assert read_decoder_pack(folder).chat_template == "plain"
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": "text"}))
    assert read_decoder_pack(folder).chat_template == "text"
    (folder / "chat_template.jinja").write_text("of its own")
    assert read_decoder_pack(folder).chat_template == "of its own"
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert read_decoder_pack(folder).chat_template is None


def test_special_tokens_may_be_texts_or_objects(make_decoder: Callable[..., Path]) -> None:
    tokens = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": None}
    folder = make_decoder("growing", tokenizer_config=tokens)
    assert read_decoder_pack(folder).special_tokens == {"bos_token": "<s>", "eos_token": "</s>"}


def test_the_version_changes_with_everything_that_an_answer_depends_on(
    make_decoder: Callable[..., Path],
) -> None:
    folder = make_decoder("growing")
    versions = [read_decoder_pack(folder).version]
    assert read_decoder_pack(folder).version == versions[0]
    assert read_decoder_pack(make_decoder("growing")).version == versions[0]
    tokenizer = folder / "tokenizer.json"
    for change in (
        lambda: tokenizer.write_text(tokenizer.read_text().replace("<|start|>", "<|begin|>")),
        lambda: (folder / "chat_template.jinja").write_text("another"),
        lambda: (folder / "generation_config.json").write_text('{"eos_token_id": 3}'),
        lambda: (folder / "config.json").write_text(
            json.dumps(CONFIG | {"max_position_embeddings": 256})
        ),
        lambda: (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>"}'),
        lambda: _change_a_weight(folder / "model.onnx"),
    ):
        change()
        versions.append(read_decoder_pack(folder).version)
    assert len(set(versions)) == len(versions)


def _change_a_weight(path: Path) -> None:
    model = onnx.load(path)
    (weight,) = [tensor for tensor in model.graph.initializer if tensor.name == "head"]
    weight.raw_data = bytes(4) + weight.raw_data[4:]
    onnx.save(model, path)


def test_sizes_that_the_graph_leaves_open_come_from_the_configuration(
    make_decoder: Callable[..., Path],
) -> None:
    folder = make_decoder("growing")
    model = onnx.load(folder / "model.onnx")
    for value in model.graph.input:
        if value.name.startswith("past"):
            shape = value.type.tensor_type.shape.dim
            shape[1].dim_param, shape[3].dim_param = "heads", "size"
    onnx.save(model, folder / "model.onnx")
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64}
    (folder / "config.json").write_text(json.dumps(CONFIG | sizes))
    kv = read_decoder_pack(folder).kv
    assert (kv.heads, kv.head_size) == (2, 16)
    (folder / "config.json").write_text(json.dumps(CONFIG | sizes | {"head_dim": 24}))
    assert read_decoder_pack(folder).kv.head_size == 24


def _without(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def _edit_graph(folder: Path, edit: Callable[[Any], None]) -> None:
    model = onnx.load(folder / "model.onnx")
    edit(model.graph)
    onnx.save(model, folder / "model.onnx")


def _drop(values: Any, name: str) -> None:
    values.remove(next(value for value in values if value.name == name))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: _without(f, "model.onnx"), r"holds none of model.onnx, onnx/model.onnx, .* to"),
        (lambda f: _without(f, "config.json"), r"config.json: missing; copy it from the model"),
        (lambda f: _without(f, "tokenizer.json"), r"tokenizer.json: missing; copy it from the mod"),
        (
            lambda f: (f / "config.json").write_text("{}"),
            r"config.json: has no 'vocab_size'; copy it",
        ),
        (
            lambda f: (f / "generation_config.json").write_text('{"eos_token_id": "</s>"}'),
            r"eos_token_id must be a number or a list of numbers",
        ),
        *(
            (
                lambda f, end=end: (f / "generation_config.json").write_text(
                    json.dumps({"eos_token_id": [5, end]})
                ),
                message,
            )
            for end, message in [
                (True, "eos_token_id must be a number or a list of numbers"),
                (-1, "eos_token_id -1 is outside of the vocabulary of 300 tokens; copy"),
                (300, "eos_token_id 300 is outside of the vocabulary of 300 tokens; copy"),
            ]
        ),
        *(
            (
                lambda f, context=context: (f / "config.json").write_text(
                    json.dumps(CONFIG | {"max_position_embeddings": context})
                ),
                r"config.json: 'max_position_embeddings' must be a whole number from 1 to 16777216",
            )
            for context in (True, 512.0, 0, -512, "512")
        ),
        (
            lambda f: (f / "config.json").write_text("[" * 100_000),
            r"config.json: not valid JSON",
        ),
        (
            lambda f: (f / "tokenizer_config.json").write_text('{"chat_template": 3}'),
            r"tokenizer_config.json: chat_template must be a text",
        ),
        (
            lambda f: _edit_graph(f, lambda g: _drop(g.input, "past_key_values.1.value")),
            r"needs the inputs past_key_values.N.key and .value of each layer; export it",
        ),
        (
            lambda f: _edit_graph(f, lambda g: _drop(g.output, "present.1.value")),
            r"has no output 'present.1.value'; export it with past",
        ),
        (
            lambda f: _edit_graph(f, lambda g: _drop(g.output, "logits")),
            r"needs an output 'logits' \[batch, tokens, vocabulary\]",
        ),
        (
            lambda f: _edit_graph(f, lambda g: _drop(g.input, "input_ids")),
            r"has no input 'input_ids'",
        ),
        (
            lambda f: _edit_graph(f, lambda g: setattr(g.input[1], "name", "pixel_values")),
            r"unsupported input 'pixel_values'; export it without",
        ),
        (
            lambda f: _edit_graph(
                f, lambda g: setattr(g.input[-1].type.tensor_type, "elem_type", 7)
            ),
            r"keep keys and values of different shapes",
        ),
    ],
)
def test_a_folder_that_is_no_such_pack_is_refused_with_what_to_do(
    make_decoder: Callable[..., Path], damage: Callable[[Path], None], message: str
) -> None:
    folder = make_decoder("growing")
    damage(folder)
    with pytest.raises(SetupError, match=message):
        read_decoder_pack(folder)


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="no such folder"):
        read_decoder_pack(tmp_path / "none")


def test_an_encoder_is_no_decoder(minilm_folder: Path) -> None:
    with pytest.raises(SetupError, match="needs an output 'logits'"):
        read_decoder_pack(minilm_folder)
