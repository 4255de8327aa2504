"""What packs of every kind have: a graph, files of settings, and a digest of it all."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from sidecar.models.errors import SetupError
from sidecar.models.graph import Graph, read_graph

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def find_graph(folder: Path) -> tuple[Path, Graph]:
    """Returns the graph in ``folder`` and its path.

    Raises `SetupError` if there is none, or if it takes batches of one size only.
    """
    path = _find_file(folder)
    graph = read_graph(path)
    for spec in (*graph.inputs, *graph.outputs):
        if spec.shape and spec.shape[0] is not None:
            raise SetupError(
                f"{path}: {spec.name!r} has shape {spec.shape}; export it with a dynamic batch axis"
            )
    return path, graph


def _find_file(folder: Path) -> Path:
    if not folder.is_dir():
        raise SetupError(f"{folder}: no such folder")
    for path in (folder / "model.onnx", folder / "onnx" / "model.onnx"):
        if path.is_file():
            return path
    raise SetupError(f"{folder}: holds neither model.onnx nor onnx/model.onnx; export it to ONNX")


def read_json(path: Path, kind: type) -> Any:
    """Returns what the file holds, None if there is none; raises `SetupError` if it is damaged."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise SetupError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, kind):
        raise SetupError(f"{path}: a JSON {kind.__name__} is expected")
    return content


def digest(parts: Iterable[bytes]) -> str:
    """A version: 128 bits over all parts, in hexadecimal. Lengths are part of it."""
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(len(part).to_bytes(8, "little") + part)
    return made.hexdigest()


def file_digest(path: Path) -> bytes:
    """A digest of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").digest()
