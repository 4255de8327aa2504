"""Reads a model pack: a folder in the layout of a Hugging Face ONNX export.

Only the graph has to be there. What a missing file leaves open:

- no ``modules.json``: vectors that we pool are normalised, those that the graph pools are not;
- no pooling configuration: the mean over tokens;
- no ``tokenizer.json``: the model takes tensors, not texts.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from sidecar.models.errors import SetupError
from sidecar.models.graph import Graph, TensorSpec, read_graph

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

PoolingMode: TypeAlias = Literal["graph", "mean", "cls", "last"]
"""Who turns token states into one vector: the graph itself, or we in one of three ways."""

_POOLING: dict[str, PoolingMode] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
}
_TEXT_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_POOLED_OUTPUTS = ("sentence_embedding", "text_embeds", "image_embeds")
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")
# Positions of these models start behind the number of the padding token.
_SHIFTED_POSITIONS = {"roberta", "xlm-roberta", "camembert", "mpnet"}


@dataclass(frozen=True, slots=True)
class TextOptions:
    """How a pack's texts become tokens."""

    tokenizer: Path
    max_tokens: int
    pad_id: int
    prompts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Pack:
    """A model on disk. ``text`` is None for a model of tensors.

    ``version`` is a digest of everything that a vector depends on.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    pooling: PoolingMode
    normalise: bool
    text: TextOptions | None
    version: str


def read_pack(folder: Path) -> Pack:
    """Reads the pack in ``folder``; raises `SetupError` if it is not one that we can run."""
    path = _find_graph(folder)
    graph = read_graph(path)
    for spec in (*graph.inputs, *graph.outputs):
        if spec.shape and spec.shape[0] is not None:
            raise SetupError(
                f"{path}: {spec.name!r} has shape {spec.shape}; export it with a dynamic batch axis"
            )
    modules = _read_modules(folder)
    text = _text_options(folder, path, graph) if (folder / "tokenizer.json").is_file() else None
    if text is None:
        _check_tensor_input(folder, path, graph)
    output = _choose_output(path, graph, pooled_only=text is None)
    pooling = "graph" if len(output.shape) == 2 else _pooling(folder, modules)
    normalise = pooling != "graph" if modules is None else "Normalize" in modules
    version = _version(graph, output, pooling, normalise, text)
    return Pack(path, graph.inputs, output, pooling, normalise, text, version)


def _find_graph(folder: Path) -> Path:
    if not folder.is_dir():
        raise SetupError(f"{folder}: no such folder")
    for path in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if path.is_file():
            return path
    raise SetupError(f"{folder}: holds neither model.onnx nor onnx/model.onnx; export it to ONNX")


def _text_options(folder: Path, path: Path, graph: Graph) -> TextOptions:
    names = {spec.name for spec in graph.inputs}
    for name in ("input_ids", "attention_mask"):
        if name not in names:
            raise SetupError(f"{path}: has no input {name!r}; export it with one")
    if unknown := names - _TEXT_INPUTS:
        raise SetupError(f"{path}: unsupported input {min(unknown)!r}; export it without")
    for spec in graph.inputs:
        if len(spec.shape) != 2 or spec.shape[1] is not None:
            raise SetupError(
                f"{path}: input {spec.name!r} has shape {spec.shape}; export it with a dynamic"
                " sequence axis, [batch, sequence]"
            )
    config = _read_json(folder / "config.json", dict) or {}
    return TextOptions(
        tokenizer=folder / "tokenizer.json",
        max_tokens=_max_tokens(folder, config),
        pad_id=config.get("pad_token_id") or 0,
        prompts=_prompts(folder),
    )


def _check_tensor_input(folder: Path, path: Path, graph: Graph) -> None:
    if any(spec.name in _TEXT_INPUTS for spec in graph.inputs):
        raise SetupError(f"{folder / 'tokenizer.json'}: missing; {path.name} reads tokens")
    if len(graph.inputs) != 1 or not graph.inputs[0].shape:
        names = [spec.name for spec in graph.inputs]
        raise SetupError(f"{path}: a model of tensors needs one input [batch, ...], not {names}")


def _choose_output(path: Path, graph: Graph, *, pooled_only: bool) -> TensorSpec:
    by_name = {spec.name: spec for spec in graph.outputs}
    wanted = _POOLED_OUTPUTS if pooled_only else (*_POOLED_OUTPUTS, *_TOKEN_OUTPUTS)
    ranks = (2,) if pooled_only else (2, 3)
    fitting = [spec for spec in graph.outputs if len(spec.shape) in ranks]
    for name in wanted:
        if by_name.get(name) in fitting:
            return by_name[name]
    if len(fitting) == 1:
        return fitting[0]
    raise SetupError(
        f"{path}: no way to tell which of the outputs {sorted(by_name)} is the embedding;"
        " name it sentence_embedding, [batch, dimensions]"
    )


def _read_modules(folder: Path) -> dict[str, str] | None:
    """The folder of each sentence-transformers module, by the module's class."""
    modules = _read_json(folder / "modules.json", list)
    if modules is None:
        return None
    try:
        return {entry["type"].rpartition(".")[2]: entry["path"] for entry in modules}
    except (KeyError, TypeError, AttributeError):
        raise SetupError(f"{folder / 'modules.json'}: entries need a type and a path") from None


def _pooling(folder: Path, modules: dict[str, str] | None) -> PoolingMode:
    if unknown := set(modules or ()) - {"Transformer", "Pooling", "Normalize"}:
        raise SetupError(
            f"{folder / 'modules.json'}: unsupported module {min(unknown)!r}; export the graph"
            " with it inside and an output sentence_embedding"
        )
    path = folder / (modules or {}).get("Pooling", "1_Pooling") / "config.json"
    config = _read_json(path, dict)
    if config is None:
        return "mean"
    modes = config.get("pooling_mode")
    if modes is None:
        prefix = "pooling_mode_"
        modes = [k.removeprefix(prefix) for k, on in config.items() if k.startswith(prefix) and on]
    mode = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
    if not isinstance(mode, str) or mode not in _POOLING or not config.get("include_prompt", True):
        raise SetupError(f"{path}: unsupported pooling; one of mean, cls or last token is needed")
    return _POOLING[mode]


def _max_tokens(folder: Path, config: dict[str, Any]) -> int:
    sentence = (_read_json(folder / "sentence_bert_config.json", dict) or {}).get("max_seq_length")
    tokenizer = (_read_json(folder / "tokenizer_config.json", dict) or {}).get("model_max_length")
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and config.get("model_type") in _SHIFTED_POSITIONS:
        positions -= config.get("pad_token_id", 1) + 1
    limits = [limit for limit in (tokenizer, positions) if limit is not None]
    # A tokenizer without a limit has a huge number there.
    length = sentence if sentence is not None else min(limits, default=None)
    if not isinstance(length, int) or not 0 < length < 1_000_000:
        raise SetupError(
            f"{folder / 'sentence_bert_config.json'}: write"
            ' {"max_seq_length": N} there, the number of tokens that the model reads at most'
        )
    return length


def _prompts(folder: Path) -> dict[str, str]:
    path = folder / "config_sentence_transformers.json"
    prompts = (_read_json(path, dict) or {}).get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise SetupError(f"{path}: prompts must map names to texts")
    found = {"query": prompts.get("query"), "document": prompts.get("document")}
    found["document"] = found["document"] or prompts.get("passage")
    return {kind: prompt for kind, prompt in found.items() if prompt}


def _read_json(path: Path, kind: type) -> Any:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise SetupError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, kind):
        raise SetupError(f"{path}: a JSON {kind.__name__} is expected")
    return content


def _version(
    graph: Graph,
    output: TensorSpec,
    pooling: PoolingMode,
    normalise: bool,
    text: TextOptions | None,
) -> str:
    parts: list[bytes] = [_file_digest(file) for file in graph.files]
    parts += [output.name.encode(), pooling.encode(), str(normalise).encode()]
    if text is not None:
        parts += [_file_digest(text.tokenizer), str((text.max_tokens, text.pad_id)).encode()]
        parts += [part.encode() for item in sorted(text.prompts.items()) for part in item]
    return _digest(parts)


def _digest(parts: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _file_digest(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
