"""Small real packs, built on the fly, and an encoder whose runs a test can hold back."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sidecar.models.encoder import Encoder
from sidecar.models.pack import read_pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sidecar.models.encoder import Encodable

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three", "nan", "inf", "crash"]
# The vector of each token; "crash" has none, so that a run with it fails.
TABLE = np.array(
    [[9, 9], [0, 1], [1, 0], [0, 1], [1, 1], [2, 2], [3, -3], [np.nan, 0], [np.inf, 0]],
    np.float32,
)


def save_graph(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: dict[str, tuple[int, Sequence[Any]]],
    constants: dict[str, NDArray[Any]],
) -> None:
    def infos(specs: dict[str, tuple[int, Sequence[Any]]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, kind, dims) for n, (kind, dims) in specs.items()]

    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", infos(inputs), infos(outputs), tensors)
    opsets = [helper.make_opsetid("", 18)]
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)


def save_tokenizer(path: Path, *, special_tokens: bool = True) -> None:
    """Splits at spaces; like many published ones, cuts and pads to lengths of its own."""
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special_tokens:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(path))


class PackMaker:
    """Writes packs into one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def json(self, name: str, content: object) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))

    def text(
        self,
        *,
        graph: str = "model.onnx",
        output: str = "last_hidden_state",
        ids: int = TensorProto.INT64,
        extra_inputs: Sequence[str] = (),
        pooled_rows: str | None = None,
        special_tokens: bool = True,
    ) -> Path:
        """A model that looks up one vector a token.

        With ``pooled_rows`` the graph sums over tokens itself and gives as many rows as inputs
        ("right"), one row whatever the batch ("one"), or always two more ("more").
        """
        nodes = [helper.make_node("Gather", ["table", "input_ids"], ["states"])]
        constants = {"table": TABLE, "axis": np.array([1], np.int64), "all": np.array([0, 1])}
        shape: list[Any] = ["batch", "sequence", 2]
        if pooled_rows is None:
            nodes.append(helper.make_node("Identity", ["states"], [output]))
        else:
            shape = ["batch", 2]
            nodes.append(helper.make_node("ReduceSum", ["states", "axis"], ["sum"], keepdims=0))
            nodes += {
                "right": [helper.make_node("Identity", ["sum"], [output])],
                "one": [helper.make_node("ReduceSum", ["sum", "first"], [output])],
                "more": [helper.make_node("Concat", ["sum", "sum", "sum"], [output], axis=0)],
            }[pooled_rows]
            constants["first"] = np.array([0], np.int64)
        names = ["input_ids", "attention_mask", *extra_inputs]
        save_graph(
            self.folder / graph,
            nodes,
            {name: (ids, ["batch", "sequence"]) for name in names},
            {output: (TensorProto.FLOAT, shape)},
            constants,
        )
        save_tokenizer(self.folder / "tokenizer.json", special_tokens=special_tokens)
        self.json("sentence_bert_config.json", {"max_seq_length": 8})
        return self.folder

    def tensor(
        self,
        *,
        dtype: int = TensorProto.FLOAT,
        shape: Sequence[int | str] = (2, 3),
        output_shape: Sequence[int | str] = ("batch", 3),
    ) -> Path:
        """A model of tensors that takes the mean over their first axis."""
        nodes = [
            helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["float", "axis"], ["embedding"], keepdims=0),
        ]
        save_graph(
            self.folder / "model.onnx",
            nodes,
            {"pixels": (dtype, ["batch", *shape])},
            {"embedding": (TensorProto.FLOAT, output_shape)},
            {"axis": np.array([1], np.int64)},
        )
        return self.folder


@pytest.fixture
def make_pack(tmp_path: Path) -> PackMaker:
    return PackMaker(tmp_path / "pack")


class HeldEncoder:
    """A real encoder that notes every batch and runs it when the test lets it."""

    def __init__(self, encoder: Encoder) -> None:
        self.batches: list[list[Encodable]] = []
        self.started = threading.Semaphore(0)
        self._encoder = encoder
        self._go = threading.Semaphore(0)
        self.dimensions, self.device, self.refusal = (
            encoder.dimensions,
            encoder.device,
            encoder.refusal,
        )

    def run(self, batch: Sequence[Encodable]) -> NDArray[np.float32]:
        self.batches.append(list(batch))
        self.started.release()
        assert self._go.acquire(timeout=30)
        return self._encoder.run(batch)

    def go(self, runs: int = 1_000_000) -> None:
        self._go.release(runs)


@pytest.fixture
def hold_encoder() -> Callable[[Path], HeldEncoder]:
    return lambda folder: HeldEncoder(Encoder(read_pack(folder), "cpu"))
