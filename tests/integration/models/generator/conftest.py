"""Small decoders of random weights, and generators that run them."""

from __future__ import annotations

import functools
import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from sidecar.models.decoder import Decoder
from sidecar.models.decoder_pack import read_decoder_pack
from sidecar.models.decoder_state import DecoderState
from sidecar.models.generation import Completion, Generation, GenerationRequest, Sampling
from sidecar.models.local_generator import LocalGenerator
from sidecar.models.prefixes import Prefixes
from sidecar.models.prompt_reader import PromptReader
from sidecar.models.splits import Splits

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sidecar.models.generation import Prompt

LAYERS, WIDTH, HEADS, KV_HEADS, SIZE, CONTEXT = 2, 32, 4, 2, 16, 512
# One token for each byte, then special ones. The last of them is none that the graph knows.
VOCABULARY = 300
SPECIAL = [
    "<|start|>",
    "<|end|>",
    *(f"<|{token}|>" for token in range(258, VOCABULARY)),
    "<|broken|>",
]
# One that is not read when a model is tried out at the start.
NAN_TOKEN = ord("|")
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}<|start|>{{ m.role }}:{{ m.content }}<|end|>{% endfor %}<|start|>assistant:"
)


class _Graph:
    """Nodes and constants; what a decoder of this kind has in common."""

    def __init__(self, kv_type: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.kv_type = kv_type
        self._random = np.random.default_rng(5)

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def weight(self, name: str, *shape: int) -> str:
        values = self._random.standard_normal(shape) * shape[0] ** -0.5
        return self.constant(name, values)

    def node(self, op: str, inputs: Sequence[str], *outputs: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, outputs, outputs[0], **attributes))
        return outputs[0]

    def project(self, source: str, name: str, width: int) -> str:
        weight = self.weight(f"{name}.weight", WIDTH, width)
        return self.node("MatMul", [source, weight], name)

    def head(self, state: str) -> None:
        """Logits; what is neither the end nor a byte that the model can read never comes."""
        bias = np.zeros(VOCABULARY, np.float32)
        bias[[NAN_TOKEN, 256, *range(258, VOCABULARY)]] = -1e4
        weight = self.weight("head", WIDTH, VOCABULARY)
        unbiased = self.node("MatMul", [state, weight], "unbiased")
        self.node("Add", [unbiased, self.constant("bias", bias)], "logits")

    def embed(self) -> str:
        rows = self._random.standard_normal((VOCABULARY, WIDTH)) * 3
        rows[NAN_TOKEN] = np.nan
        return self.node("Gather", [self.constant("words", rows), "input_ids"], "embedded")

    def feed_forward(self, source: str, attended: str, layer: str) -> str:
        out = self.node(
            "MatMul",
            [attended, self.weight(f"{layer}out", HEADS * SIZE, WIDTH)],
            f"{layer}projected",
        )
        middle = self.node("Add", [source, out], f"{layer}middle")
        active = self.node("Tanh", [self.project(middle, f"{layer}wide", WIDTH)], f"{layer}active")
        return self.node("Add", [middle, active], f"{layer}end")

    def save(self, path: Path, extra: dict[str, tuple[int, list[Any]]], logits: list[Any]) -> None:
        def info(name: str, kind: int, shape: Sequence[Any]) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, kind, shape)

        names = [f"{layer}.{part}" for layer in range(LAYERS) for part in ("key", "value")]
        kv = ["batch", KV_HEADS, "tokens", SIZE]
        inputs = {"input_ids": (TensorProto.INT64, ["batch", "new"])} | extra
        graph = helper.make_graph(
            self.nodes,
            "test",
            [info(name, *spec) for name, spec in inputs.items()]
            + [info(f"past_key_values.{name}", self.kv_type, kv) for name in names],
            [info("logits", TensorProto.FLOAT, logits)]
            + [info(f"present.{name}", self.kv_type, kv) for name in names],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        path.parent.mkdir(parents=True, exist_ok=True)
        onnx.save(helper.make_model(graph, ir_version=8, opset_imports=opsets), path)


def _in_place(path: Path) -> None:
    """Attention in one operator, rotary positions, logits of the last token only."""
    graph = _Graph(TensorProto.FLOAT)
    mask = {"attention_mask": (TensorProto.INT64, ["batch", "total"])}
    one = graph.constant("one", [1], np.int64)
    graph.node("ReduceSum", ["attention_mask", one], "count", keepdims=0)
    graph.node("Cast", [graph.node("Sub", ["count", one], "last")], "seqlens", to=TensorProto.INT32)
    graph.node("Shape", ["attention_mask"], "mask.shape", start=1)
    graph.node("Squeeze", ["mask.shape"], "total64")
    graph.node("Cast", ["total64"], "total", to=TensorProto.INT32)
    angles = np.arange(CONTEXT)[:, None] * 100.0 ** (-np.arange(0, SIZE, 2) / SIZE)
    tables = [graph.constant("cos", np.cos(angles)), graph.constant("sin", np.sin(angles))]
    state = graph.embed()
    for number in range(LAYERS):
        layer = f"{number}."
        widths = {"q": HEADS * SIZE, "k": KV_HEADS * SIZE, "v": KV_HEADS * SIZE}
        qkv = [graph.project(state, layer + name, width) for name, width in widths.items()]
        parts = [f"{number}.key", f"{number}.value"]
        past, present = (
            [f"{side}.{part}" for part in parts] for side in ("past_key_values", "present")
        )
        attended = graph.node(
            "GroupQueryAttention",
            [*qkv, *past, "seqlens", "total", *tables],
            f"{layer}attended",
            *present,
            domain="com.microsoft",
            num_heads=HEADS,
            kv_num_heads=KV_HEADS,
            do_rotary=1,
        )
        state = graph.feed_forward(state, attended, layer)
    end = graph.constant("end", [-1], np.int64)
    state = graph.node("Gather", [state, end], "at.end", axis=1)
    graph.head(state)
    graph.save(path, mask, ["batch", 1, VOCABULARY])


def _growing(path: Path, kv_type: int = TensorProto.FLOAT, *, merged: bool = False) -> None:
    """Plain operators and learned positions; new keys and values are put behind the old ones.

    A merged graph ignores the old ones unless ``use_cache_branch`` is set.
    """
    graph = _Graph(kv_type)
    extra: dict[str, tuple[int, list[Any]]] = {
        "attention_mask": (TensorProto.INT64, ["batch", "total"]),
        "position_ids": (TensorProto.INT64, ["batch", "new"]),
    }
    if merged:
        extra["use_cache_branch"] = (TensorProto.BOOL, [1])
    table = graph.weight("positions", CONTEXT, WIDTH)
    positions = graph.node("Gather", [table, "position_ids"], "placed")
    state = graph.node("Add", [graph.embed(), positions], "begin")
    _causal_mask(graph)
    for number in range(LAYERS):
        state = _plain_layer(graph, state, number, merged=merged)
    graph.head(state)
    graph.save(path, extra, ["batch", "new", None])


def _causal_mask(graph: _Graph) -> None:
    for name, value in {"0": 0, "1": 1}.items():
        graph.constant(f"int.{name}", value, np.int64)
    graph.node("Shape", ["attention_mask"], "mask.shape", start=1)
    graph.node("Squeeze", ["mask.shape"], "total")
    graph.node("Range", ["int.0", "total", "int.1"], "columns")
    graph.node("Unsqueeze", ["position_ids", graph.constant("axes", [1, 3], np.int64)], "rows")
    graph.node("LessOrEqual", ["columns", "rows"], "visible")


def _plain_layer(graph: _Graph, state: str, number: int, *, merged: bool) -> str:
    layer = f"{number}."
    shape = graph.constant(f"{layer}shape", [0, 0, -1, SIZE], np.int64)
    whole: dict[str, str] = {}
    for part in ("query", "key", "value"):
        # As many key heads as query heads, kept for every second one: the others are copies.
        heads = HEADS if part == "query" else KV_HEADS
        flat = graph.project(state, f"{layer}{part}.flat", heads * SIZE)
        graph.node("Reshape", [flat, shape], f"{layer}{part}.split")
        new = graph.node(
            "Transpose", [f"{layer}{part}.split"], f"{layer}{part}.new", perm=[0, 2, 1, 3]
        )
        whole[part] = new if part == "query" else _grow(graph, number, part, new, merged=merged)
    flipped = graph.node("Transpose", [whole["key"]], f"{layer}flipped", perm=[0, 1, 3, 2])
    scores = graph.node("MatMul", [whole["query"], flipped], f"{layer}scores")
    hidden = graph.constant(f"{layer}hidden", -1e9)
    seen = graph.node("Where", ["visible", scores, hidden], f"{layer}seen")
    weights = graph.node("Softmax", [seen], f"{layer}weights", axis=-1)
    mixed = graph.node("MatMul", [weights, whole["value"]], f"{layer}mixed")
    turned = graph.node("Transpose", [mixed], f"{layer}turned", perm=[0, 2, 1, 3])
    flat = graph.constant(f"{layer}flat", [0, 0, -1], np.int64)
    attended = graph.node("Reshape", [turned, flat], f"{layer}attended")
    return graph.feed_forward(state, attended, layer)


def _grow(graph: _Graph, number: int, part: str, new: str, *, merged: bool) -> str:
    """All keys or values, in float32 and one for each query head; keeps them as ``present``."""
    name = f"{number}.{part}"
    past = f"past_key_values.{name}"
    if merged:
        zero = graph.constant(f"{name}.start", [0], np.int64)
        graph.node("Shape", [past], f"{name}.all", start=2, end=3)
        graph.node("Where", ["use_cache_branch", f"{name}.all", zero], f"{name}.used")
        axis = graph.constant(f"{name}.axis", [2], np.int64)
        past = graph.node("Slice", [past, zero, f"{name}.used", axis], f"{name}.past")
    kept = graph.node("Cast", [new], f"{name}.kept", to=graph.kv_type)
    present = graph.node("Concat", [past, kept], f"present.{name}", axis=2)
    wide = graph.node("Cast", [present], f"{name}.float", to=TensorProto.FLOAT)
    heads = graph.constant(f"{name}.heads", np.arange(HEADS) // (HEADS // KV_HEADS), np.int64)
    return graph.node("Gather", [wide, heads], f"{name}.repeated", axis=1)


def _quantized(path: Path, nodes: Sequence[str] = ()) -> None:
    """Matrices of 8 bits, all or some: the scale of what they are applied to is that of a run."""
    _growing(path)
    quantize_dynamic(
        path,
        path,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=list(nodes),
        extra_options={"DefaultTensorType": TensorProto.FLOAT},
    )


def _quantized_unheard(path: Path) -> None:
    """As if of the last layer's keys alone, and of what they do the logits do not depend on it."""
    _quantized(path, [f"{LAYERS - 1}.key.flat"])
    model = onnx.load(path)
    (weight,) = [t for t in model.graph.initializer if t.name == f"{LAYERS - 1}.out"]
    weight.CopyFrom(numpy_helper.from_array(np.zeros(weight.dims, np.float32), weight.name))
    onnx.save(model, path)


_KINDS: dict[str, Callable[[Path], None]] = {
    "in place": _in_place,
    "growing": _growing,
    "half": lambda path: _growing(path, TensorProto.FLOAT16),
    "merged": lambda path: _growing(path, merged=True),
    "quantized": _quantized,
    "quantized logits": lambda path: _quantized(path, ["unbiased"]),
    "quantized keys": _quantized_unheard,
}


def _tokenizer() -> Tokenizer:
    """One token for each byte, with the byte as its id."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable}
    names |= {byte: chr(256 + place) for place, byte in enumerate(others)}
    tokenizer = Tokenizer(models.BPE({names[byte]: byte for byte in range(256)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer


@pytest.fixture(scope="session")
def make_decoder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a pack of a kind: "in place", "growing", "half", "merged" or "quantized".

    Or one of which only the logits, or only keys that no logits depend on, depend on the length of
    a run: "quantized logits" and "quantized keys".

    ``files`` are JSON files in place of those that it has, None for one that it has not.
    """

    def make(kind: str, graph: str = "model.onnx", **files: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind.replace(" ", "_"))
        _KINDS[kind](folder / graph)
        _tokenizer().save(str(folder / "tokenizer.json"))
        contents = {
            "config": {"max_position_embeddings": CONTEXT, "vocab_size": VOCABULARY},
            "generation_config": {"eos_token_id": 257},
            "tokenizer_config": {"chat_template": TEMPLATE, "eos_token": "<|end|>"},
        } | files
        for name, content in contents.items():
            if content is not None:
                (folder / f"{name}.json").write_text(json.dumps(content))
        return folder

    return make


@pytest.fixture(scope="session")
def decoder_folders(make_decoder: Callable[..., Path]) -> dict[str, Path]:
    """One pack of each kind."""
    return {
        kind: make_decoder(
            kind, "onnx/decoder_model_merged.onnx" if kind == "merged" else "model.onnx"
        )
        for kind in _KINDS
    }


class Scope:
    """Whose blocks they are."""

    def __init__(self, name: bytes = b"") -> None:
        self.name = name

    def key(self, parent: bytes, tokens: bytes) -> bytes:
        return hashlib.blake2b(self.name + b"|" + parent + b"|" + tokens, digest_size=16).digest()


class Running:
    """A generator, and what it keeps of prompts."""

    def __init__(self, generator: LocalGenerator, prefixes: Prefixes) -> None:
        self.generator = generator
        self.prefixes = prefixes

    def start(self, prompt: Prompt, *, scope: bytes = b"", **options: Any) -> Generation:
        flags = {n: options.pop(n) for n in ("reads_prefix", "keeps_prefix") if n in options}
        sampling = Sampling(**({"max_tokens": 12} | options))
        generation = Generation()
        request = GenerationRequest(prompt, sampling, Scope(scope), **flags)
        self.generator.start(request, generation)
        return generation

    async def answer(self, prompt: Prompt, **options: Any) -> Completion:
        completion: Completion = await self.start(prompt, **options)
        return completion

    async def tokens(self, prompt: Prompt, **options: Any) -> list[int]:
        completion = await self.answer(prompt, **options)
        return [token for piece in completion.pieces for token in piece.tokens]

    def assert_nothing_held(self) -> None:
        """No place, no memory of a generation and no block is in use."""
        report = self.prefixes.report(1)
        assert (self.generator.queued, self.generator.active) == (0, 0)
        assert report.pinned_blocks == 0
        self.generator.forget_prompts()
        assert self.prefixes.report(1).bytes == 0


@pytest.fixture(scope="session")
def load_model() -> Callable[[Path], tuple[Decoder, PromptReader]]:
    """Loads a model, once in the whole run."""

    @functools.cache
    def load(folder: Path) -> tuple[Decoder, PromptReader]:
        pack = read_decoder_pack(folder)
        return Decoder(pack, "cpu", 2), PromptReader(pack)

    return load


@pytest.fixture
async def run_generator(
    load_model: Callable[[Path], tuple[Decoder, PromptReader]],
) -> AsyncIterator[Callable[..., Running]]:
    """Runs generators, and closes them; each must have given back all that it took.

    ``fixed_runs``: as where the kernels' results depend on how a prompt is cut.
    """
    opened: list[Running] = []

    def run(
        folder: Path,
        *,
        prefixes: Prefixes | None = None,
        max_bytes: int = 2**26,
        fixed_runs: bool = False,
        **options: Any,
    ) -> Running:
        prefixes = prefixes or Prefixes(max_bytes)
        options = {"parallel": 4, "queue": 256, "block_tokens": 16} | options
        generator = LocalGenerator(*load_model(folder), "tiny", prefixes=prefixes, **options)
        if fixed_runs:
            generator._splits = Splits(64, is_free=False)
        opened.append(Running(generator, prefixes))
        return opened[-1]

    yield run
    for running in opened:
        await running.generator.close()
        running.assert_nothing_held()
        await running.prefixes.close()


class Gate:
    """Lets runs of decoders through one by one, once it is closed.

    ``lengths`` are how many tokens the runs since then have read, ``waiting`` how many runs wait.
    """

    def __init__(self) -> None:
        self.waiting = 0
        self.lengths: list[int] = []
        self._is_open = True
        self._lock = threading.Condition()
        self._passes = 0

    def close(self) -> None:
        with self._lock:
            self._is_open = False
            self.lengths.clear()

    def open(self) -> None:
        with self._lock:
            self._is_open = True
            self._lock.notify_all()

    def let(self, runs: int) -> None:
        with self._lock:
            self._passes += runs
            self._lock.notify_all()

    def go_through(self, tokens: int) -> None:
        with self._lock:
            self.waiting += 1
            self._lock.wait_for(lambda: self._is_open or self._passes)
            self._passes -= not self._is_open
            self.waiting -= 1
            self.lengths.append(tokens)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """An open gate before every run of a decoder."""
    gate = Gate()
    run = DecoderState.run

    def gated(state: DecoderState, tokens: Sequence[int]) -> NDArray[np.float32]:
        gate.go_through(len(tokens))
        return run(state, tokens)

    monkeypatch.setattr(DecoderState, "run", gated)
    yield gate
    gate.open()
