"""Reads a model pack: a folder in the layout of a Hugging Face ONNX export.

Only the graph has to be there. What a missing file leaves open:

- no ``modules.json``: vectors that we pool are normalised, those that the graph pools are not;
- no pooling configuration: the mean over tokens;
- no ``tokenizer.json``: the model takes tensors, not texts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from sidecar.models.errors import SetupError
from sidecar.models.pack_files import digest, find_graph
from sidecar.models.pack_folder import PackFolder
from sidecar.models.text_options import TEXT_INPUTS, TextOptions, read_text_options

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.models.graph import Graph, TensorSpec

PoolingMode: TypeAlias = Literal["graph", "mean", "cls", "last"]
"""Who turns token states into one vector: the graph itself, or we in one of three ways."""

MAX_INPUT_SIZE = 2**26
"""Numbers of a tensor; an image of 1024 x 1024 has 3 million."""

_POOLING: dict[str, PoolingMode] = {
    "mean": "mean",
    "mean_tokens": "mean",
    "cls": "cls",
    "cls_token": "cls",
    "lasttoken": "last",
}
_POOLED_OUTPUTS = ("sentence_embedding", "text_embeds", "image_embeds")
_TOKEN_OUTPUTS = ("last_hidden_state", "token_embeddings")


@dataclass(frozen=True, slots=True)
class Pack:
    """A model on disk. ``text`` is None for a model of tensors.

    ``states`` is the output with one vector for each token, None if there is none. ``version`` is
    a digest of everything that a vector depends on.
    """

    path: Path
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    states: TensorSpec | None
    pooling: PoolingMode
    normalise: bool
    text: TextOptions | None
    version: str


def read_pack(folder: Path) -> Pack:
    """Reads the pack in ``folder``; raises `SetupError` if it is not one that we can run."""
    files = PackFolder(folder)
    path, graph = find_graph(files)
    modules = _read_modules(files)
    text = read_text_options(files, path, graph)
    if text is None:
        _check_tensor_input(folder, path, graph)
    output = _choose_output(path, graph, pooled_only=text is None)
    pooling = "graph" if len(output.shape) == 2 else _pooling(files, modules)
    normalise = pooling != "graph" if modules is None else "Normalize" in modules
    parts = [*map(files.digest, graph.files), output.name.encode(), pooling.encode()]
    parts += [str(normalise).encode(), *(text.parts() if text else ())]
    states = _states(graph, output) if text else None
    return Pack(path, graph.inputs, output, states, pooling, normalise, text, digest(parts))


def _check_tensor_input(folder: Path, path: Path, graph: Graph) -> None:
    if any(spec.name in TEXT_INPUTS for spec in graph.inputs):
        raise SetupError(f"{folder / 'tokenizer.json'}: missing; {path.name} reads tokens")
    if len(graph.inputs) != 1 or not graph.inputs[0].shape:
        names = [spec.name for spec in graph.inputs]
        raise SetupError(f"{path}: a model of tensors needs one input [batch, ...], not {names}")
    if (size := math.prod(each or 1 for each in graph.inputs[0].shape)) > MAX_INPUT_SIZE:
        raise SetupError(f"{path}: its input has {size} numbers, more than {MAX_INPUT_SIZE}")


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


def _states(graph: Graph, output: TensorSpec) -> TensorSpec | None:
    """The output itself where we pool it; a graph that pools may still have another."""
    by_name = {spec.name: spec for spec in graph.outputs}
    candidates = [output, *(by_name[name] for name in _TOKEN_OUTPUTS if name in by_name)]
    return next((spec for spec in candidates if len(spec.shape) == 3), None)


def _read_modules(folder: PackFolder) -> dict[str, str] | None:
    """The folder of each sentence-transformers module, by the module's class."""
    modules = folder.json("modules.json", list)
    if modules is None:
        return None
    try:
        return {entry["type"].rpartition(".")[2]: str(entry["path"]) for entry in modules}
    except (KeyError, TypeError, AttributeError):
        raise SetupError(
            f"{folder.path / 'modules.json'}: entries need a type and a path"
        ) from None


def _pooling(folder: PackFolder, modules: dict[str, str] | None) -> PoolingMode:
    if unknown := set(modules or ()) - {"Transformer", "Pooling", "Normalize"}:
        raise SetupError(
            f"{folder.path / 'modules.json'}: unsupported module {min(unknown)!r}; export the graph"
            " with it inside and an output sentence_embedding"
        )
    name = f"{(modules or {}).get('Pooling', '1_Pooling')}/config.json"
    config = folder.json(name, dict)
    if config is None:
        return "mean"
    modes = config.get("pooling_mode")
    if modes is None:
        prefix = "pooling_mode_"
        modes = [k.removeprefix(prefix) for k, on in config.items() if k.startswith(prefix) and on]
    mode = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
    if not isinstance(mode, str) or mode not in _POOLING or not config.get("include_prompt", True):
        path = folder.path / name
        raise SetupError(f"{path}: unsupported pooling; one of mean, cls or last token is needed")
    return _POOLING[mode]
