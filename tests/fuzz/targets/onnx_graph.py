"""Graphs of packs: what is read of them before ONNX Runtime is given them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from onnx import TensorProto, helper

from sidecar.models.errors import SetupError
from sidecar.models.graph import read_graph
from sidecar.models.pack_folder import PackFolder

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (SetupError,)
TOKENS = (
    "weights",
    "../",
    "/etc/passwd",
    "location",
    "*/_ORT_MEM_ADDR_/*",
    "com.microsoft",
    "ai.onnx",
)
_FOLDER = Path(tempfile.mkdtemp(prefix="fuzz-"))
(_FOLDER / "weights").write_bytes(bytes(16))
(_FOLDER.parent / "outside").write_bytes(b"")


def seeds() -> Iterator[bytes]:
    weights = TensorProto(name="w", dims=[4], data_type=1, data_location=TensorProto.EXTERNAL)
    for key, value in (("location", "weights"), ("offset", "0"), ("length", "16")):
        weights.external_data.add(key=key, value=value)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])
    add = helper.make_node("Add", ["x", "w"], ["y"])
    inner = helper.make_graph([add], "inner", [], [y], [weights])
    choice = helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner)
    constant = helper.make_node("Constant", [], ["w"], value=weights)
    fused = helper.make_node(
        "GroupQueryAttention", list("abcde"), list("fgh"), domain="com.microsoft"
    )
    function = helper.make_function(
        "own", "F", ["x"], ["y"], [constant, add], [helper.make_opsetid("", 18)]
    )
    call = helper.make_node("F", ["x"], ["y"], domain="own")
    for nodes, tensors in (([add], [weights]), ([choice, fused], []), ([constant, call], [])):
        graph = helper.make_graph(nodes, "g", [x], [y], tensors)
        yield helper.make_model(graph, functions=[function]).SerializeToString()


def run(data: bytes) -> None:
    path = _FOLDER / "model.onnx"
    path.write_bytes(data)
    graph = read_graph(PackFolder(_FOLDER), path)
    assert set(graph.files) <= {path, _FOLDER / "weights"}
