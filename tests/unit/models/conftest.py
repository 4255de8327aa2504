"""Small real packs, built on the fly, and an encoder whose runs a test can hold back."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from sidecar.models.cross_encoder import CrossEncoder
from sidecar.models.encoder import Encoder
from sidecar.models.pack import read_pack
from sidecar.models.pair_pack import read_pair_pack

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sidecar.models.encoder import Encodable
    from sidecar.models.tokenise import Tokens
    from sidecar.models.types import TokenVectors

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "one", "two", "three", "nan", "inf", "crash"]
# The vector of each token; "crash" has none, so that a run with it fails.
TABLE = np.array(
    [[9, 9], [0, 1], [1, 0], [0, 1], [1, 1], [2, 2], [3, -3], [np.nan, 0], [np.inf, 0]],
    np.float32,
)


def save_tokenizer(path: Path, *, special_tokens: bool = True) -> None:
    """Splits at spaces; like many published ones, cuts and pads to lengths of its own."""
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if special_tokens:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
        )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=20)
    tokenizer.save(str(path))


class PackMaker:
    """Writes packs into one folder."""

    def __init__(self, folder: Path, save_graph: Callable[..., None]) -> None:
        self.folder = folder
        self._save_graph = save_graph

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
        states: str | None = None,
        states_a_token: int = 1,
        special_tokens: bool = True,
    ) -> Path:
        """A model that looks up one vector a token.

        With ``pooled_rows`` the graph sums over tokens itself and gives as many rows as inputs
        ("right"), one row whatever the batch ("one"), or always two more ("more"). With ``states``
        it has another output of that name, with the vectors of the tokens.
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
        outputs: dict[str, Any] = {output: (TensorProto.FLOAT, shape)}
        if states is not None:
            nodes.append(helper.make_node("Concat", ["states"] * states_a_token, [states], axis=1))
            outputs[states] = (TensorProto.FLOAT, ["batch", "sequence", 2])
        self._save_graph(
            self.folder / graph,
            nodes,
            {name: (ids, ["batch", "sequence"]) for name in names},
            outputs,
            constants,
        )
        save_tokenizer(self.folder / "tokenizer.json", special_tokens=special_tokens)
        self.json("sentence_bert_config.json", {"max_seq_length": 8})
        return self.folder

    def pairs(
        self,
        *,
        shape: Sequence[int | str] = ("batch", 1),
        output: str = "logits",
        other_outputs: Sequence[str] = (),
        token_types: bool = True,
    ) -> Path:
        """A cross-encoder: the weights of the passage's tokens less those of the query's.

        ``shape`` is that of its answers. With two numbers they are the query's and the passage's
        own; other shapes hold as many numbers again as they need. Without ``token_types`` all
        tokens count as the query's.
        """
        text = ["batch", "sequence"]
        names = ["input_ids", "attention_mask", *(["token_type_ids"] if token_types else [])]
        types = "token_type_ids" if token_types else "no_types"
        nodes = [
            helper.make_node("Sub", ["input_ids", "input_ids"], ["no_types"]),
            helper.make_node("Gather", ["weights", "input_ids"], ["all"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Cast", [types], ["in_passage"], to=TensorProto.FLOAT),
            helper.make_node("Sub", ["mask", "in_passage"], ["in_query"]),
            helper.make_node("Mul", ["all", "in_query"], ["of_query"]),
            helper.make_node("Mul", ["all", "in_passage"], ["of_passage"]),
            helper.make_node("ReduceSum", ["of_query", "axis"], ["query"]),
            helper.make_node("ReduceSum", ["of_passage", "axis"], ["passage"]),
            helper.make_node("Sub", ["passage", "query"], ["score"]),
        ]
        width = shape[-1] if len(shape) > 1 else 0
        nodes += {
            0: [helper.make_node("Squeeze", ["score", "axis"], [output])],
            1: [helper.make_node("Identity", ["score"], [output])],
            2: [helper.make_node("Concat", ["query", "passage"], [output], axis=1)],
            3: [helper.make_node("Concat", ["query", "passage", "score"], [output], axis=1)],
            "sequence": [helper.make_node("Identity", ["all"], [output])],
        }[width]
        nodes += [helper.make_node("Identity", ["score"], [name]) for name in other_outputs]
        self._save_graph(
            self.folder / "model.onnx",
            nodes,
            dict.fromkeys(names, (TensorProto.INT64, text)),
            {output: (TensorProto.FLOAT, shape)}
            | dict.fromkeys(other_outputs, (TensorProto.FLOAT, ["batch", 1])),
            {"weights": TABLE[:, 0], "axis": np.array([1], np.int64)},
        )
        save_tokenizer(self.folder / "tokenizer.json")
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
        self._save_graph(
            self.folder / "model.onnx",
            nodes,
            {"pixels": (dtype, ["batch", *shape])},
            {"embedding": (TensorProto.FLOAT, output_shape)},
            {"axis": np.array([1], np.int64)},
        )
        return self.folder


@pytest.fixture
def make_pack(save_graph: Callable[..., None], tmp_path: Path) -> PackMaker:
    return PackMaker(tmp_path / "pack", save_graph)


class HeldEncoder:
    """A real encoder or cross-encoder that notes every batch and runs it when the test lets it."""

    def __init__(self, encoder: Encoder | CrossEncoder) -> None:
        self.batches: list[list[Encodable]] = []
        self.started = threading.Semaphore(0)
        self._encoder = encoder
        self._go = threading.Semaphore(0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def run(self, batch: Sequence[Encodable]) -> NDArray[np.float32]:
        self._hold(batch)
        return self._encoder.run(batch)

    def run_tokens(self, batch: Sequence[Tokens]) -> list[TokenVectors]:
        self._hold(batch)
        return self._encoder.run_tokens(batch)

    def _hold(self, batch: Sequence[Encodable]) -> None:
        self.batches.append(list(batch))
        self.started.release()
        assert self._go.acquire(timeout=30)

    def go(self, runs: int = 1_000_000) -> None:
        self._go.release(runs)


@pytest.fixture
def hold_encoder() -> Callable[[Path], HeldEncoder]:
    return lambda folder: HeldEncoder(Encoder(read_pack(folder), "cpu"))


@pytest.fixture
def hold_cross_encoder() -> Callable[[Path], HeldEncoder]:
    return lambda folder: HeldEncoder(CrossEncoder(read_pair_pack(folder), "cpu"))
