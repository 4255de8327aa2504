"""Reads a pack that generates: a folder in the layout of a Hugging Face ONNX export of a decoder.

The graph reads tokens behind the keys and values of those before them, and gives logits and the
keys and values of all. What a missing file leaves open:

- no ``generation_config.json``: ``config.json`` says which tokens end an answer;
- no chat template, in ``chat_template.jinja`` or ``tokenizer_config.json``: no conversations.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sidecar.models.errors import SetupError
from sidecar.models.graph import MAX_SIZE, read_graph
from sidecar.models.pack_files import digest, find_first
from sidecar.models.pack_folder import MAX_CONFIG_BYTES, MAX_TOKENIZER_BYTES, PackFolder
from sidecar.models.tokenizer_file import MAX_VOCABULARY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from sidecar.models.graph import Graph, TensorSpec

MAX_TOKEN_BYTES = 2**24
"""Keys and values of one token; a model of 405 billion weights has half a million."""

_GRAPHS = [
    folder + name
    for name in ("model.onnx", "decoder_model_merged.onnx")
    for folder in ("", "onnx/")
]
_INPUTS = {"input_ids", "attention_mask", "position_ids", "use_cache_branch"}
_PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token")
# What configurations of different families call the same thing.
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx")
_QUERY_HEADS = ("num_attention_heads", "n_head")
_WIDTH = ("hidden_size", "n_embd")


@dataclass(frozen=True, slots=True)
class KVLayout:
    """The keys and values that a graph keeps of each token.

    ``past`` names the inputs and ``present`` the outputs, key and value of each layer in turn;
    each is ``[1, heads, tokens, head_size]``. ``is_in_place``: the graph writes new ones behind the
    old ones, so that one buffer may be both; otherwise it copies all into a new tensor each run.
    """

    past: tuple[str, ...]
    present: tuple[str, ...]
    heads: int
    head_size: int
    dtype: np.dtype[Any]
    is_in_place: bool

    @property
    def token_bytes(self) -> int:
        """Bytes of one token."""
        return len(self.past) * self.heads * self.head_size * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class DecoderPack:
    """A generating model on disk.

    ``context_tokens`` is the most that prompt and answer have together, ``vocabulary`` how many
    tokens there are, ``end_tokens`` which of them end an answer. ``chat_template`` is the source
    in Jinja, None if there is none; ``special_tokens`` are what it may write by their names.
    ``version`` is a digest of everything that an answer depends on.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    kv: KVLayout
    vocabulary: int
    context_tokens: int
    end_tokens: frozenset[int]
    tokenizer: Path
    chat_template: str | None
    special_tokens: Mapping[str, str]
    version: str


def read_decoder_pack(folder: Path) -> DecoderPack:
    """Reads the pack in ``folder``; raises `SetupError` if it is not one that we can run."""
    files = PackFolder(folder)
    path = find_first(files, _GRAPHS)
    export = _Export(files, path, read_graph(files, path), _required_config(files))
    export.check_inputs()
    tokenizer = files.find("tokenizer.json", MAX_TOKENIZER_BYTES)
    if tokenizer is None:
        raise SetupError(
            f"{folder / 'tokenizer.json'}: missing; copy it from the model that was exported"
        )
    tokenizer_config = files.json("tokenizer_config.json", dict) or {}
    facts: dict[str, Any] = {
        "vocabulary": export.vocabulary(),
        "context_tokens": export.number(_CONTEXT),
        "end_tokens": export.end_tokens(),
        "chat_template": _chat_template(files, tokenizer_config),
        "special_tokens": _special_tokens(tokenizer_config),
    }
    parts = [files.digest(file) for file in (*export.graph.files, tokenizer)]
    parts += [repr(sorted(v) if isinstance(v, frozenset) else v).encode() for v in facts.values()]
    return DecoderPack(
        path=path,
        inputs=export.graph.inputs,
        kv=export.kv(),
        tokenizer=tokenizer,
        version=digest(parts),
        **facts,
    )


def _required_config(folder: PackFolder) -> dict[str, Any]:
    config: dict[str, Any] | None = folder.json("config.json", dict)
    if config is None:
        raise SetupError(
            f"{folder.path / 'config.json'}: missing; copy it from the model that was exported"
        )
    return config


@dataclass(frozen=True, slots=True)
class _Export:
    """The graph and the configuration of a decoder."""

    folder: PackFolder
    path: Path
    graph: Graph
    config: Mapping[str, Any]

    def check_inputs(self) -> None:
        names = {spec.name for spec in self.graph.inputs}
        if "input_ids" not in names:
            raise SetupError(f"{self.path}: has no input 'input_ids'; this is no decoder of tokens")
        if unknown := {name for name in names - _INPUTS if not _PAST.fullmatch(name)}:
            raise SetupError(f"{self.path}: unsupported input {min(unknown)!r}; export it without")

    def kv(self) -> KVLayout:
        specs = {spec.name: spec for spec in self.graph.inputs if _PAST.fullmatch(spec.name)}
        past = tuple(
            f"past_key_values.{layer}.{part}"
            for layer in range(len(specs) // 2)
            for part in ("key", "value")
        )
        if not past or set(past) != set(specs):
            raise SetupError(
                f"{self.path}: needs the inputs past_key_values.N.key and .value of each layer;"
                " export it for text generation with past"
            )
        present = tuple(name.replace("past_key_values", "present") for name in past)
        if missing := set(present) - {spec.name for spec in self.graph.outputs}:
            raise SetupError(f"{self.path}: has no output {min(missing)!r}; export it with past")
        first = specs[past[0]]
        if len({(spec.dtype, spec.shape) for spec in specs.values()}) > 1:
            raise SetupError(
                f"{self.path}: its layers keep keys and values of different shapes, which is"
                " unsupported"
            )
        if first.dtype not in (np.float32, np.float16) or len(first.shape) != 4:
            raise SetupError(
                f"{self.path}: {first.name!r} is {first.dtype} of shape {first.shape}; export it"
                " with float32 or float16 of shape [batch, heads, tokens, head size]"
            )
        is_in_place = self.graph.in_place.issuperset(zip(past, present, strict=True))
        layout = KVLayout(past, present, *self._kv_sizes(first), first.dtype, is_in_place)
        if layout.token_bytes > MAX_TOKEN_BYTES:
            raise SetupError(
                f"{self.path}: keys and values of one token have {layout.token_bytes} bytes, more"
                f" than {MAX_TOKEN_BYTES}"
            )
        return layout

    def _kv_sizes(self, spec: TensorSpec) -> tuple[int, int]:
        """Heads and their size, from the configuration where the graph leaves them open."""
        heads, size = spec.shape[1], spec.shape[3]
        if size is None and self.config.get("head_dim") is not None:
            size = self.number(("head_dim",))
        if size is None:
            size = self.number(_WIDTH) // self.number(_QUERY_HEADS)
        return heads or self.number(("num_key_value_heads", *_QUERY_HEADS)), size

    def vocabulary(self) -> int:
        logits = next((spec for spec in self.graph.outputs if spec.name == "logits"), None)
        if logits is None or len(logits.shape) != 3:
            raise SetupError(
                f"{self.path}: needs an output 'logits' [batch, tokens, vocabulary]; export it for"
                " text generation"
            )
        vocabulary = logits.shape[2] or self.number(("vocab_size",))
        if vocabulary > MAX_VOCABULARY:
            raise SetupError(f"{self.path}: has more than {MAX_VOCABULARY} tokens")
        return vocabulary

    def end_tokens(self) -> frozenset[int]:
        generation = self.folder.json("generation_config.json", dict) or {}
        ends = generation.get("eos_token_id", self.config.get("eos_token_id"))
        ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
        if not all(type(token) is int for token in ends):
            raise SetupError(
                f"{self.folder.path}: eos_token_id must be a number or a list of numbers"
            )
        vocabulary = self.vocabulary()
        if strange := [token for token in ends if not 0 <= token < vocabulary]:
            raise SetupError(
                f"{self.folder.path}: eos_token_id {strange[0]} is outside of the vocabulary of"
                f" {vocabulary} tokens; copy the configuration of the model that was exported"
            )
        return frozenset(ends)

    def number(self, names: Sequence[str]) -> int:
        """What the configuration says under the first of the names that it has."""
        for name in names:
            value = self.config.get(name)
            if value is None:
                continue
            if type(value) is not int or not 1 <= value <= MAX_SIZE:
                raise SetupError(
                    f"{self.folder.path / 'config.json'}: {name!r} must be a whole number from 1 to"
                    f" {MAX_SIZE}"
                )
            return value
        raise SetupError(
            f"{self.folder.path / 'config.json'}: has no {names[0]!r}; copy it from the model that"
            " was exported"
        )


def _chat_template(folder: PackFolder, tokenizer_config: Mapping[str, Any]) -> str | None:
    path = folder.find("chat_template.jinja", MAX_CONFIG_BYTES)
    if path is not None:
        try:
            return folder.read(path).decode()
        except UnicodeDecodeError as error:
            raise SetupError(f"{path}: not UTF-8 ({error})") from error
    template = tokenizer_config.get("chat_template")
    if isinstance(template, list):  # several with names: for tools, for retrieval
        named = [entry for entry in template if isinstance(entry, dict)]
        template = next((e.get("template") for e in named if e.get("name") == "default"), None)
    if template is not None and not isinstance(template, str):
        raise SetupError(f"{folder.path / 'tokenizer_config.json'}: chat_template must be a text")
    return template


def _special_tokens(tokenizer_config: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name in _SPECIAL_TOKENS:
        token = tokenizer_config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found[name] = text
    return found
