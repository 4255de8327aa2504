"""What an ONNX file says about itself: inputs, outputs and the files it is made of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from sidecar.models.errors import SetupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


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


def read_graph(path: Path) -> Graph:
    """Reads the graph's interface; raises `SetupError` if the file is damaged or incomplete."""
    try:
        model = onnx.load(path, load_external_data=False)
    except (DecodeError, OSError) as error:
        raise SetupError(f"{path}: not a readable ONNX file ({error}); export it again") from error
    constants = {tensor.name for tensor in model.graph.initializer}
    return Graph(
        inputs=tuple(_spec(path, v) for v in model.graph.input if v.name not in constants),
        outputs=tuple(_spec(path, value) for value in model.graph.output),
        files=(path, *sorted(_external_files(path, model))),
        in_place=frozenset(
            pair
            for node in model.graph.node
            if (node.domain, node.op_type) == ("com.microsoft", "GroupQueryAttention")
            for pair in zip(node.input[3:5], node.output[1:3], strict=False)
        ),
    )


def _spec(path: Path, value: onnx.ValueInfoProto) -> TensorSpec:
    tensor = value.type.tensor_type
    try:
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    except KeyError:
        raise SetupError(f"{path}: {value.name!r} is not a tensor; export it again") from None
    shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
    return TensorSpec(value.name, dtype, shape)


def _external_files(path: Path, model: onnx.ModelProto) -> set[Path]:
    nodes = [node for function in model.functions for node in function.node]
    files = set()
    for tensor in (*_tensors(model.graph), *_node_tensors(nodes)):
        if not uses_external_data(tensor):
            continue
        location = PurePosixPath(ExternalDataInfo(tensor).location)
        file = path.parent / location
        if location.is_absolute() or ".." in location.parts:
            raise SetupError(f"{path}: weights in {str(location)!r}, outside its folder")
        if not file.is_file():
            raise SetupError(f"{file}: missing; {path.name} keeps weights in it")
        files.add(file)
    return files


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    yield from _node_tensors(graph.node)


def _node_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _tensors(graph)
