"""What an ONNX file says about itself: inputs, outputs and the files it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from sidecar.models.pack_folder import PackFolder

MAX_GRAPH_BYTES = 2**31
"""Of a file; what is larger has its weights in files of their own."""
MAX_WEIGHTS_BYTES = 256 * 2**30
MAX_NODES = 100_000
"""With those of subgraphs and functions. Published models have some thousands."""
MAX_TENSORS = 10_000
"""Inputs and outputs."""
MAX_SIZE = 2**24
"""Of a dimension of an input or output."""
MAX_RANK = 8

# Operators of these come with ONNX Runtime. Others are in libraries, which are never loaded.
_DOMAINS = {"", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"}
# ONNX Runtime takes what follows for an address in its own memory.
_ADDRESS_MARK = "_ORT_MEM_ADDR_"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a graph; a dimension that the graph leaves open is None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """An ONNX graph: ``files`` holds the file itself and those with its external weights.

    ``in_place`` has the pairs of input and output that may be one buffer: keys and values of
    attention that writes new ones behind the old ones.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: tuple[Path, ...]
    in_place: frozenset[tuple[str, str]]


def read_graph(folder: PackFolder, path: Path) -> Graph:
    """Reads the graph's interface.

    Raises `SetupError` if the file is damaged or incomplete, if it is of absurd size, or if it
    needs anything from outside of the pack.
    """
    try:
        model = onnx.ModelProto.FromString(folder.read(path))
    except (DecodeError, OSError) as error:
        raise SetupError(f"{path}: not a readable ONNX file ({error}); export it again") from error
    values = (*model.graph.input, *model.graph.output)
    if len(values) > MAX_TENSORS:
        raise SetupError(f"{path}: has more than {MAX_TENSORS} inputs and outputs")
    nodes = _check_nodes(path, model)
    constants = {tensor.name for tensor in model.graph.initializer}
    return Graph(
        inputs=tuple(_spec(path, v) for v in model.graph.input if v.name not in constants),
        outputs=tuple(_spec(path, value) for value in model.graph.output),
        files=(path, *sorted(_external_files(folder, path, model, nodes))),
        in_place=frozenset(
            pair
            for node in model.graph.node
            if (node.domain, node.op_type) == ("com.microsoft", "GroupQueryAttention")
            for pair in zip(node.input[3:5], node.output[1:3], strict=False)
        ),
    )


def _spec(path: Path, value: onnx.ValueInfoProto) -> TensorSpec:
    tensor, name = value.type.tensor_type, _utf8(path, value.name)
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        raise SetupError(f"{path}: {name!r} is not a tensor; export it again") from None
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    if len(shape) > MAX_RANK or not all(size is None or 0 <= size <= MAX_SIZE for size in shape):
        raise SetupError(
            f"{path}: {name!r} has a shape of more than {MAX_RANK} dimensions, or one that is"
            f" not from 0 to {MAX_SIZE}"
        )
    return TensorSpec(name, dtype, shape)


def _utf8(path: Path, text: str | bytes) -> str:
    """A text of the file, which comes as bytes if it is not UTF-8. Raises `SetupError`."""
    if isinstance(text, bytes):
        raise SetupError(f"{path}: a name in it is not UTF-8; export it again")
    return text


def _check_nodes(path: Path, model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """All nodes, at whatever depth. Raises `SetupError` for too many or for foreign operators."""
    known = _DOMAINS | {function.domain for function in model.functions}
    found: list[onnx.NodeProto] = []
    for node in _nodes(chain(model.graph.node, *(each.node for each in model.functions))):
        found.append(node)
        if node.domain not in known:
            raise SetupError(
                f"{path}: the operator {node.op_type!r} of {node.domain!r} is not one of ONNX or"
                " ONNX Runtime, and libraries of operators are not loaded; export it without"
            )
        if len(found) > MAX_NODES:
            raise SetupError(f"{path}: the graph has more than {MAX_NODES} nodes")
    return found


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in _subgraphs(node):
            yield from _nodes(graph.node)


def _subgraphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _external_files(
    folder: PackFolder, path: Path, model: onnx.ModelProto, nodes: Iterable[onnx.NodeProto]
) -> set[Path]:
    files = set()
    for tensor in _tensors(model.graph, nodes):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            # A key may stand there twice, and who reads it may take either.
            for entry in tensor.external_data:
                if entry.key == "location":
                    files.add(_external_file(folder, path, entry.value))
    total = sum(file.stat().st_size for file in files)
    if total > MAX_WEIGHTS_BYTES:
        raise SetupError(f"{path}: its weights have {total} bytes, more than {MAX_WEIGHTS_BYTES}")
    return files


def _external_file(folder: PackFolder, path: Path, written: str) -> Path:
    location = PurePosixPath(_utf8(path, written))
    if location.is_absolute() or ".." in location.parts or _ADDRESS_MARK in written:
        raise SetupError(f"{path}: weights in {written!r}, outside its folder")
    name = (path.relative_to(folder.path).parent / location).as_posix()
    file = folder.find(name, MAX_WEIGHTS_BYTES)
    if file is None:
        raise SetupError(f"{folder.path / name}: missing; {path.name} keeps weights in it")
    return file


def _tensors(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph and of its nodes, which are those at any depth."""
    nodes = list(nodes)
    for each in (graph, *(sub for node in nodes for sub in _subgraphs(node))):
        yield from each.initializer
        yield from _dense(each.sparse_initializer)
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            if attribute.HasField("sparse_tensor"):
                yield from _dense([attribute.sparse_tensor])
            yield from _dense(attribute.sparse_tensors)


def _dense(tensors: Iterable[onnx.SparseTensorProto]) -> Iterator[onnx.TensorProto]:
    for sparse in tensors:
        yield sparse.values
        yield sparse.indices
