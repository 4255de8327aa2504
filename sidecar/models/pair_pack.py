"""Reads the pack of a cross-encoder: a folder in the layout of a Hugging Face ONNX export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.models.errors import SetupError
from sidecar.models.pack_files import digest, find_graph
from sidecar.models.pack_folder import PackFolder
from sidecar.models.text_options import read_text_options

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.models.graph import Graph, TensorSpec
    from sidecar.models.text_options import TextOptions

# To be raised with every change in how a score is made of what the graph answers.
_ALGORITHM = b"cross-encoder 1"


@dataclass(frozen=True, slots=True)
class PairPack:
    """A cross-encoder on disk. ``version`` is a digest of everything that a score depends on."""

    path: Path
    inputs: tuple[TensorSpec, ...]
    output: TensorSpec
    text: TextOptions
    version: str


def read_pair_pack(folder: Path) -> PairPack:
    """Reads the pack in ``folder``; raises `SetupError` if it is not one that we can run."""
    files = PackFolder(folder)
    path, graph = find_graph(files)
    text = read_text_options(files, path, graph)
    if text is None:
        raise SetupError(f"{folder / 'tokenizer.json'}: missing; {path.name} reads tokens")
    output = _choose_output(path, graph)
    parts = [_ALGORITHM, *map(files.digest, graph.files), output.name.encode(), *text.parts()]
    return PairPack(path, graph.inputs, output, text, digest(parts))


def _choose_output(path: Path, graph: Graph) -> TensorSpec:
    by_name = {spec.name: spec for spec in graph.outputs}
    output = graph.outputs[0] if len(by_name) == 1 else by_name.get("logits")
    if output is None:
        raise SetupError(
            f"{path}: no way to tell which of the outputs {sorted(by_name)} is the score;"
            " name it logits, [batch, 1]"
        )
    if len(output.shape) != 2:
        raise SetupError(
            f"{path}: output {output.name!r} has shape {output.shape}; the pack of a cross-encoder"
            " is needed, which answers a pair with logits, [batch, 1]"
        )
    return output
