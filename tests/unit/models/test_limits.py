"""A pack may come from anywhere: of absurd size, pointing outside, or with code in it."""

from __future__ import annotations

import json
import os
import pickle
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models

from sidecar.models import graph as graphs
from sidecar.models import pack as packs
from sidecar.models import tokenizer_file
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.encoder import Encoder
from sidecar.models.errors import SetupError
from sidecar.models.pack import read_pack
from sidecar.models.session import open_session
from sidecar.models.tokenise import TextTokeniser

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FLOAT = TensorProto.FLOAT


def change(folder: Path, how: Callable[[onnx.ModelProto], object]) -> Path:
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    how(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def external(location: str, name: str = "table") -> TensorProto:
    tensor = TensorProto(name=name, dims=[9, 2], data_type=FLOAT, data_location=1)
    tensor.external_data.add(key="location", value=location)
    return tensor


def with_weights(folder: Path, location: str) -> Path:
    def move(model: onnx.ModelProto) -> None:
        (table,) = (each for each in model.graph.initializer if each.name == "table")
        table.CopyFrom(external(location))

    return change(folder, move)


def add_node(op: str, domain: str, **attributes: Any) -> Callable[[onnx.ModelProto], object]:
    node = helper.make_node(op, ["x"], ["y"], domain=domain, **attributes)
    return lambda model: model.graph.node.append(node)


def inside_a_branch(model: onnx.ModelProto) -> None:
    node = helper.make_node("PyOp", [], ["y"], domain="ai.onnx.contrib")
    branch = helper.make_graph([node], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["c"], ["y"], then_branch=branch))


def inside_a_function(model: onnx.ModelProto) -> None:
    node = helper.make_node("PyOp", [], ["y"], domain="evil")
    model.functions.append(helper.make_function("own", "F", [], ["y"], [node], []))


@pytest.mark.parametrize(
    "how", [add_node("PyOp", "ai.onnx.contrib"), inside_a_branch, inside_a_function]
)
@pytest.mark.threat("A pack brings code")
def test_operators_from_libraries_are_refused(make_pack: Any, how: Any) -> None:
    with pytest.raises(SetupError, match=r"the operator 'PyOp' of .* is not one of ONNX or"):
        read_pack(change(make_pack.text(), how))


def test_functions_of_the_graphs_own_are_no_libraries(make_pack: Any) -> None:
    def add(model: onnx.ModelProto) -> None:
        body = [helper.make_node("Identity", ["a"], ["b"])]
        opsets = [helper.make_opsetid("", 18)]
        model.functions.append(helper.make_function("own", "F", ["a"], ["b"], body, opsets))
        model.opset_import.append(helper.make_opsetid("own", 1))
        model.graph.node[-1].op_type, model.graph.node[-1].domain = "F", "own"

    Encoder(read_pack(change(make_pack.text(), add)), "cpu", 1)


@pytest.mark.parametrize("location", ["../secret", "/etc/hostname", "a/../../secret", "link"])
@pytest.mark.threat("A pack points outside of its folder")
def test_weights_outside_of_the_pack_are_refused(make_pack: Any, location: str) -> None:
    folder = make_pack.text()
    (folder.parent / "secret").write_bytes(bytes(72))
    (folder / "link").symlink_to("../secret")
    with pytest.raises(SetupError, match=r"outside"):
        read_pack(with_weights(folder, location))


def test_an_address_in_memory_is_no_place_of_weights(make_pack: Any) -> None:
    """ONNX Runtime has such a mark for its own use; a file of that name may be in the pack."""
    folder = make_pack.text()
    mark = folder / "*" / "_ORT_MEM_ADDR_"
    mark.mkdir(parents=True)
    (mark / "*").write_bytes(bytes(72))
    with pytest.raises(SetupError, match=r"outside its folder"):
        read_pack(with_weights(folder, "*/_ORT_MEM_ADDR_/*"))


def test_the_runtime_itself_refuses_weights_outside_of_the_pack_too(make_pack: Any) -> None:
    folder = make_pack.text()
    (folder.parent / "secret").write_bytes(bytes(72))
    with pytest.raises(SetupError, match="cannot load it"):
        open_session(with_weights(folder, "../secret") / "model.onnx", "cpu", 1)


def sparse(attribute: str) -> Callable[[onnx.ModelProto], object]:
    def add(model: onnx.ModelProto) -> None:
        tensor = onnx.SparseTensorProto(values=external("../secret"), dims=[9])
        many = attribute == "sparse_tensors"
        made = onnx.AttributeProto(name="value", type=11 if not many else 12)
        (made.sparse_tensors.append if many else made.sparse_tensor.CopyFrom)(tensor)
        node = helper.make_node("Constant", [], ["y"])
        node.attribute.append(made)
        model.graph.node.append(node)

    return add


@pytest.mark.parametrize(
    "how",
    [
        add_node("Constant", "", value=external("../secret")),
        add_node("Constant", "", values=[external("../secret")]),
        sparse("sparse_tensor"),
        sparse("sparse_tensors"),
        lambda model: model.graph.sparse_initializer.append(
            onnx.SparseTensorProto(values=external("../secret"))
        ),
    ],
)
def test_weights_are_looked_for_wherever_a_graph_can_have_them(make_pack: Any, how: Any) -> None:
    with pytest.raises(SetupError, match=r"weights in '../secret', outside its folder"):
        read_pack(change(make_pack.text(), how))


def test_a_place_that_is_written_twice_is_checked_twice(make_pack: Any) -> None:
    folder = with_weights(make_pack.text(), "weights")
    (folder / "weights").write_bytes(bytes(72))

    def write_first(model: onnx.ModelProto) -> None:
        (table,) = (each for each in model.graph.initializer if each.name == "table")
        table.ClearField("external_data")
        for place in ("../secret", "weights"):
            table.external_data.add(key="location", value=place)

    with pytest.raises(SetupError, match=r"outside its folder"):
        read_pack(change(folder, write_first))


@pytest.mark.parametrize(
    ("constant", "value", "message"),
    [
        ("MAX_NODES", 1, "the graph has more than 1 nodes"),
        ("MAX_TENSORS", 2, "has more than 2 inputs and outputs"),
        ("MAX_SIZE", 1, "has a shape of more than 8 dimensions, or one that is not from 0 to 1"),
        ("MAX_RANK", 2, "has a shape of more than 2 dimensions"),
    ],
)
@pytest.mark.threat("A pack is of absurd size")
def test_a_graph_of_absurd_size_is_refused(
    make_pack: Any, monkeypatch: pytest.MonkeyPatch, constant: str, value: int, message: str
) -> None:
    folder = make_pack.text()
    read_pack(folder)
    monkeypatch.setattr(graphs, constant, value)
    with pytest.raises(SetupError, match=message):
        read_pack(folder)


@pytest.mark.threat("A pack is of absurd size")
def test_weights_of_absurd_size_are_refused(
    make_pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_weights(make_pack.text(), "weights")
    (folder / "weights").write_bytes(bytes(72))
    read_pack(folder)
    monkeypatch.setattr(graphs, "MAX_WEIGHTS_BYTES", 71)
    with pytest.raises(SetupError, match=r"pack/weights: has 72 bytes, more than the 71"):
        read_pack(folder)


def test_a_file_too_large_for_its_format_is_refused_before_it_is_read(make_pack: Any) -> None:
    os.truncate(make_pack.text() / "model.onnx", graphs.MAX_GRAPH_BYTES + 1)
    with pytest.raises(SetupError, match=r"model.onnx: has 2147483649 bytes, more than the 21474"):
        read_pack(make_pack.folder)


def test_an_input_of_absurd_size_is_refused_before_it_is_made(make_pack: Any) -> None:
    with pytest.raises(SetupError, match=rf"its input has \d+ numbers, more than {2**26}"):
        read_pack(make_pack.tensor(shape=(2**13, 2**14)))
    assert packs.MAX_INPUT_SIZE == 2**26


def test_vectors_of_absurd_size_are_refused(
    make_pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sidecar.models.encoder.MAX_DIMENSIONS", 1)
    with pytest.raises(SetupError, match=r"shape \[1, 2\]; a vector of at most 1 dimensions"):
        Encoder(read_pack(make_pack.text()), "cpu", 1)


def test_a_name_that_is_no_utf8_is_refused(make_pack: Any) -> None:
    path = make_pack.text() / "model.onnx"
    path.write_bytes(path.read_bytes().replace(b"input_ids", b"input\xff\xffds"))
    with pytest.raises(SetupError, match=r"a name in it is not UTF-8"):
        read_pack(make_pack.folder)


def tokenizer(folder: Path, **parts: Any) -> Path:
    content = json.loads(Tokenizer(models.WordLevel({"a": 0}, "a")).to_str())
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(content | parts))
    return path


BPE = {
    "type": "BPE", "dropout": None, "unk_token": None, "end_of_word_suffix": None,
    "fuse_unk": False, "byte_fallback": False,
}  # fmt: skip


@pytest.mark.parametrize(
    "parts",
    [
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
        {"model": None},
        {"model": [1]},
        {
            "model": BPE
            | {"vocab": {"a": 0, "\xe9": 1}, "merges": [["a", "\xe9"]]}
            | {"continuing_subword_prefix": "x"}
        },
        {
            "model": BPE
            | {"vocab": {"a": 0, "b": 1}, "merges": ["a b"]}
            | {"continuing_subword_prefix": "\xe9\xe9"}
        },
    ],
    ids=["panic", "none", "list", "abort", "abort, in the old form"],
)
def test_a_tokenizer_over_which_its_library_fails_is_named(tmp_path: Path, parts: Any) -> None:
    """It panics over some, which is no exception, and ends the process over others."""
    with pytest.raises(SetupError, match=r"tokenizer.json: not a readable tokenizer"):
        TextTokeniser(tokenizer(tmp_path, **parts), 8)


def test_merges_with_their_prefix_are_taken(tmp_path: Path) -> None:
    vocabulary = {"a": 0, "##b": 1, "ab": 2}
    for merges in ([["a", "##b"]], ["a ##b"]):
        model = BPE | {"vocab": vocabulary, "merges": merges, "continuing_subword_prefix": "##"}
        (tokens,) = TextTokeniser(tokenizer(tmp_path, model=model), 8)(["ab"])
        assert tokens.ids == [2]


@pytest.mark.threat("A pack is of absurd size")
def test_a_vocabulary_of_absurd_size_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tokenizer(tmp_path)
    TextTokeniser(path, 8)
    monkeypatch.setattr(tokenizer_file, "MAX_VOCABULARY", 0)
    with pytest.raises(SetupError, match=r"tokenizer.json: has 1 tokens, more than 0"):
        TextTokeniser(path, 8)


def test_a_padding_token_that_no_vocabulary_has_is_refused(make_pack: Any) -> None:
    folder = make_pack.text()
    for number in (-1, 2**40, "0", True):
        make_pack.json("config.json", {"pad_token_id": number})
        with pytest.raises(SetupError, match="pad_token_id must be the id of a token"):
            read_pack(folder)


class Harm:
    """What runs when it is unpickled."""

    def __reduce__(self) -> Any:
        return (os.mkdir, ("harm",))


@pytest.mark.threat("A pack brings code")
def test_no_code_of_a_pack_is_run(
    make_pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_pack.text()
    monkeypatch.chdir(tmp_path)
    for name in ("pytorch_model.bin", "model.pt", "vocab.pkl", "onnx_model.npy"):
        (folder / name).write_bytes(pickle.dumps(Harm()))
    np.save(folder / "weights.npy", np.array([Harm()], object), allow_pickle=True)
    (folder / "modeling_own.py").write_text("import os; os.mkdir('harm')")
    (folder / "conftest.py").write_text("import os; os.mkdir('harm')")
    auto = dict.fromkeys(("AutoModel", "AutoConfig", "AutoTokenizer"), "modeling_own.Own")
    make_pack.json("config.json", {"auto_map": auto, "trust_remote_code": True})
    make_pack.json("tokenizer_config.json", {"auto_map": auto, "tokenizer_class": "Own"})
    Encoder(read_pack(folder), "cpu", 1)
    assert not (tmp_path / "harm").exists()
    assert "modeling_own" not in sys.modules
    (folder / "model.onnx").unlink()
    with pytest.raises(SetupError, match=r"holds none of model.onnx, onnx/model.onnx"):
        read_pack(folder)
    with pytest.raises(SetupError, match=r"holds none of model.onnx, "):
        read_decoder_pack(folder)
    assert not (tmp_path / "harm").exists()


def test_a_pickle_in_the_place_of_a_graph_is_no_graph(
    make_pack: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (make_pack.text() / "model.onnx").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(SetupError, match=r"model.onnx: not a readable ONNX file"):
        read_pack(make_pack.folder)
    assert not (tmp_path / "harm").exists()
