"""Reading a folder in the layout of a Hugging Face export."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest

from sidecar.models.errors import SetupError
from sidecar.models.pack import read_pack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def modules(*names: str) -> list[dict[str, str]]:
    return [{"type": f"sentence_transformers.models.{n}", "path": f"1_{n}"} for n in names]


def test_the_graph_may_lie_in_a_folder_of_its_own(make_pack: Any) -> None:
    folder = make_pack.text(graph="onnx/model.onnx")
    assert read_pack(folder).path == folder / "onnx" / "model.onnx"


def test_pooling_and_normalisation_come_from_sentence_transformers_files(make_pack: Any) -> None:
    make_pack.json("modules.json", modules("Transformer", "Pooling"))
    make_pack.json("1_Pooling/config.json", {"pooling_mode_cls_token": True})
    pack = read_pack(make_pack.text())
    assert (pack.pooling, pack.normalise) == ("cls", False)


@pytest.mark.parametrize("mode", ["cls", ["cls"]])
def test_pooling_may_be_written_in_the_newer_form(make_pack: Any, mode: object) -> None:
    make_pack.json("1_Pooling/config.json", {"pooling_mode": mode})
    assert read_pack(make_pack.text()).pooling == "cls"


@pytest.mark.parametrize(
    "config",
    [
        {"pooling_mode_max_tokens": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode": ["cls", "mean"]},
        {"pooling_mode_mean_tokens": True, "include_prompt": False},
        {},
    ],
)
def test_pooling_that_we_do_not_have_is_refused(make_pack: Any, config: object) -> None:
    make_pack.json("1_Pooling/config.json", config)
    with pytest.raises(SetupError, match=r"1_Pooling/config.json: unsupported pooling"):
        read_pack(make_pack.text())


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"output": "last_hidden_state"}, "last_hidden_state"),
        ({"output": "hidden"}, "hidden"),
        ({"output": "sentence_embedding", "pooled_rows": "right"}, None),
        (
            {
                "output": "sentence_embedding",
                "pooled_rows": "right",
                "states": "token_embeddings",
            },
            "token_embeddings",
        ),
    ],
)
def test_the_vectors_of_tokens_are_those_that_are_pooled_or_an_output_beside(
    make_pack: Any, options: dict[str, Any], name: str | None
) -> None:
    states = read_pack(make_pack.text(**options)).states
    assert (states and states.name) == name


def test_modules_behind_the_graph_are_refused(make_pack: Any) -> None:
    make_pack.json("modules.json", modules("Transformer", "Pooling", "Dense"))
    with pytest.raises(SetupError, match=r"modules.json: unsupported module 'Dense'"):
        read_pack(make_pack.text())


def test_modules_inside_the_graph_are_fine(make_pack: Any) -> None:
    make_pack.json("modules.json", modules("Transformer", "Pooling", "Dense"))
    pack = read_pack(make_pack.text(output="sentence_embedding", pooled_rows="right"))
    assert (pack.pooling, pack.normalise) == ("graph", False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"sentence_bert_config": {"max_seq_length": 64}}, 64),
        ({"tokenizer_config": {"model_max_length": 128}}, 128),
        ({"config": {"max_position_embeddings": 512}}, 512),
        (
            {
                "tokenizer_config": {"model_max_length": 10**30},
                "config": {"max_position_embeddings": 512},
            },
            512,
        ),
        (
            {
                "sentence_bert_config": {"max_seq_length": None},
                "config": {
                    "model_type": "roberta",
                    "max_position_embeddings": 514,
                    "pad_token_id": 1,
                },
            },
            512,
        ),
        (
            {
                "sentence_bert_config": {"max_seq_length": 64},
                "tokenizer_config": {"model_max_length": 32},
            },
            64,
        ),
    ],
)
def test_the_truncation_length_is_found(
    make_pack: Any, files: dict[str, object], expected: int
) -> None:
    folder = make_pack.text()
    (folder / "sentence_bert_config.json").unlink()
    for name, content in files.items():
        make_pack.json(f"{name}.json", content)
    text = read_pack(folder).text
    assert text is not None
    assert text.max_tokens == expected


@pytest.mark.parametrize("length", [None, 0, -1, 10**30, "8"])
def test_without_a_truncation_length_the_error_says_where_to_write_one(
    make_pack: Any, length: object
) -> None:
    folder = make_pack.text()
    make_pack.json("sentence_bert_config.json", {"max_seq_length": length})
    with pytest.raises(SetupError, match=r"sentence_bert_config.json: write"):
        read_pack(folder)


def test_prompts_for_queries_and_documents_are_read(make_pack: Any) -> None:
    prompts = {"query": "query: ", "passage": "passage: ", "clustering": "cluster: "}
    make_pack.json("config_sentence_transformers.json", {"prompts": prompts})
    text = read_pack(make_pack.text()).text
    assert text is not None
    assert text.prompts == {"query": "query: ", "document": "passage: "}


def test_empty_prompts_are_none(make_pack: Any) -> None:
    make_pack.json("config_sentence_transformers.json", {"prompts": {"query": ""}})
    text = read_pack(make_pack.text()).text
    assert text is not None
    assert text.prompts == {}


def test_a_folder_without_a_tokeniser_is_a_model_of_tensors(make_pack: Any) -> None:
    pack = read_pack(make_pack.tensor())
    assert (pack.text, pack.pooling, pack.normalise) == (None, "graph", False)
    assert pack.inputs[0].shape == (None, 2, 3)


def drop_tokenizer(maker: Any) -> None:
    (maker.text() / "tokenizer.json").unlink()


def fix_batch_size(maker: Any) -> None:
    rewrite(maker.text(), lambda graph: set_size(graph.input[0], 0, 1))


def fix_length(maker: Any) -> None:
    rewrite(maker.text(), lambda graph: set_size(graph.input[0], 1, 128))


def set_size(value: onnx.ValueInfoProto, axis: int, size: int) -> None:
    value.type.tensor_type.shape.dim[axis].dim_value = size


def rewrite(folder: Path, change: Callable[[onnx.GraphProto], object]) -> None:
    model = onnx.load(folder / "model.onnx")
    change(model.graph)
    (folder / "model.onnx").write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: None, "pack: no such folder"),
        (lambda m: m.json("config.json", {}), "pack: holds none of model.onnx, onnx/model.onnx"),
        (lambda m: m.json("model.onnx", "no graph"), "model.onnx: not a readable ONNX file"),
        (drop_tokenizer, "tokenizer.json: missing; model.onnx reads tokens"),
        (fix_batch_size, "model.onnx: 'input_ids' has shape (1, None); export it with a dynamic"),
        (
            fix_length,
            "model.onnx: input 'input_ids' has shape (None, 128); export it with a dynamic",
        ),
        (lambda m: m.text(extra_inputs=["position_ids"]), "unsupported input 'position_ids'"),
        (lambda m: rewrite(m.text(), lambda g: g.input.pop()), "has no input 'attention_mask'"),
        (lambda m: rewrite(m.tensor(), lambda g: g.input.pop()), "needs one input [batch, ...]"),
        (lambda m: (m.text(), m.json("config.json", [])), "config.json: a JSON dict is expected"),
        (lambda m: (m.text(), m.json("modules.json", [1])), "modules.json: entries need a type"),
        (
            lambda m: (m.text(), (m.folder / "config.json").write_text("{")),
            "config.json: not valid JSON",
        ),
        (
            lambda m: (
                m.json("config_sentence_transformers.json", {"prompts": {"query": 1}}) or m.text()
            ),
            "config_sentence_transformers.json: prompts must map names to texts",
        ),
    ],
)
def test_what_cannot_be_run_is_named(
    make_pack: Any, make: Callable[[Any], object], message: str
) -> None:
    make(make_pack)
    with pytest.raises(SetupError, match=re.escape(message)):
        read_pack(make_pack.folder)


def add_output(name: str, rank: int) -> Callable[[onnx.GraphProto], object]:
    def change(graph: onnx.GraphProto) -> None:
        dims = ["batch", *["any"] * (rank - 1)]
        graph.output.append(onnx.helper.make_tensor_value_info(name, 1, dims))

    return change


def test_a_pooler_output_beside_the_token_states_is_not_the_embedding(make_pack: Any) -> None:
    rewrite(make_pack.text(), add_output("pooler_output", 2))
    assert read_pack(make_pack.folder).output.name == "last_hidden_state"


def test_a_sentence_embedding_beside_the_token_states_is_the_embedding(make_pack: Any) -> None:
    rewrite(make_pack.text(), add_output("sentence_embedding", 2))
    assert read_pack(make_pack.folder).output.name == "sentence_embedding"


def test_outputs_of_unknown_meaning_are_refused(make_pack: Any) -> None:
    rewrite(make_pack.text(output="this"), add_output("that", 2))
    with pytest.raises(SetupError, match=r"which of the outputs \['that', 'this'\]"):
        read_pack(make_pack.folder)


def touch_graph(maker: Any) -> None:
    rewrite(maker.folder, lambda graph: setattr(graph, "doc_string", "changed"))


def touch_tokenizer(maker: Any) -> None:
    path = maker.folder / "tokenizer.json"
    path.write_text(path.read_text() + " ")


@pytest.mark.parametrize(
    "change",
    [
        touch_graph,
        touch_tokenizer,
        lambda m: m.json("sentence_bert_config.json", {"max_seq_length": 9}),
        lambda m: m.json("1_Pooling/config.json", {"pooling_mode": "cls"}),
        lambda m: m.json("modules.json", modules("Transformer", "Pooling")),
        lambda m: m.json("config.json", {"pad_token_id": 1}),
        lambda m: m.json("config_sentence_transformers.json", {"prompts": {"query": "q: "}}),
        lambda m: m.json("config_sentence_transformers.json", {"prompts": {"document": "q: "}}),
    ],
)
def test_the_version_changes_with_everything_that_changes_a_vector(
    make_pack: Any, change: Callable[[Any], object]
) -> None:
    before = read_pack(make_pack.text()).version
    change(make_pack)
    assert read_pack(make_pack.folder).version != before


def test_the_version_is_the_same_wherever_the_pack_lies(make_pack: Any, tmp_path: Path) -> None:
    folder = make_pack.text()
    version = read_pack(folder).version
    assert re.fullmatch("[0-9a-f]{32}", version)
    make_pack.json("README.json", "not part of the model")
    assert read_pack(shutil.copytree(folder, tmp_path / "copy")).version == version


def test_weights_in_a_file_of_their_own_are_part_of_the_version(make_pack: Any) -> None:
    folder = make_pack.text()
    model = onnx.load(folder / "model.onnx")
    weights = folder / "model.onnx_data"
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, size_threshold=0,
              location=weights.name)  # fmt: skip
    before = read_pack(folder).version
    content = np.frombuffer(weights.read_bytes(), np.uint8).copy()
    content[0] ^= 1
    weights.write_bytes(content.tobytes())
    assert read_pack(folder).version != before
    weights.unlink()
    with pytest.raises(SetupError, match=r"model.onnx_data: missing; model.onnx keeps weights"):
        read_pack(folder)


def test_weights_outside_the_folder_are_refused(make_pack: Any) -> None:
    folder = make_pack.text()

    def move_out(graph: onnx.GraphProto) -> None:
        tensor = graph.initializer[0]
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="../secret")

    rewrite(folder, move_out)
    with pytest.raises(SetupError, match=r"weights in '../secret', outside its folder"):
        read_pack(folder)
