"""What packs of every kind have: a graph, and a digest of it all."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from sidecar.models.errors import SetupError
from sidecar.models.graph import MAX_GRAPH_BYTES, Graph, read_graph

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sidecar.models.pack_folder import PackFolder

_GRAPHS = ("model.onnx", "onnx/model.onnx")


def find_graph(folder: PackFolder) -> tuple[Path, Graph]:
    """Returns the graph in ``folder`` and its path.

    Raises `SetupError` if there is none, or if it takes batches of one size only.
    """
    path = find_first(folder, _GRAPHS)
    graph = read_graph(folder, path)
    for spec in (*graph.inputs, *graph.outputs):
        if spec.shape and spec.shape[0] is not None:
            raise SetupError(
                f"{path}: {spec.name!r} has shape {spec.shape}; export it with a dynamic batch axis"
            )
    return path, graph


def find_first(folder: PackFolder, names: Iterable[str]) -> Path:
    """The first of the files that is there. Raises `SetupError` if none is."""
    for name in names:
        path = folder.find(name, MAX_GRAPH_BYTES)
        if path is not None:
            return path
    raise SetupError(f"{folder.path}: holds none of {', '.join(names)}; export the model to ONNX")


def digest(parts: Iterable[bytes]) -> str:
    """A version: 128 bits over all parts, in hexadecimal. Lengths are part of it."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(len(part).to_bytes(8, "little") + part)
    return made.hexdigest()
