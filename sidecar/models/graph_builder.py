"""Puts an ONNX graph together, node by node."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING, Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from onnx import ValueInfoProto

FUSED = "com.microsoft"
"""The domain of ONNX Runtime's own operators."""

_INLINE_BYTES = 1024
_ALIGNMENT = 4096  # ONNX Runtime maps aligned weights instead of reading them


class GraphBuilder:
    """Collects nodes and constants; the same calls always give the same bytes.

    Constants of 1 KiB and more are written to ``weights`` at once, if there is such a file, so
    that a build needs no memory for them; the graph names it ``weights_name`` and expects it in
    its own folder.
    """

    def __init__(self, weights: IO[bytes] | None = None, weights_name: str = "") -> None:
        self._nodes: list[NodeProto] = []
        self._constants: dict[str, TensorProto] = {}
        self._weights = weights
        self._weights_name = weights_name

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Adds a constant and returns its name; one that is there already stays."""
        if name not in self._constants:
            value = np.ascontiguousarray(value)
            external = self._weights is not None and value.nbytes >= _INLINE_BYTES
            tensor = self._written(name, value) if external else _inline(name, value)
            self._constants[name] = tensor
        return name

    def node(
        self, op: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: Any
    ) -> str:
        """Adds a node, named as its first output, and returns that name."""
        outputs = [output] if isinstance(output, str) else list(output)
        made = helper.make_node(op, inputs, outputs, name=outputs[0], **attributes)
        self._nodes.append(made)
        return outputs[0]

    def model(
        self,
        name: str,
        inputs: Sequence[ValueInfoProto],
        outputs: Sequence[ValueInfoProto],
        *,
        ir_version: int,
        opset: int,
    ) -> ModelProto:
        """Returns the graph of all that was added."""
        constants = list(self._constants.values())
        return helper.make_model(
            helper.make_graph(self._nodes, name, inputs, outputs, constants),
            producer_name="embercache",
            ir_version=ir_version,
            opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(FUSED, 1)],
        )

    def _written(self, name: str, value: NDArray[Any]) -> TensorProto:
        assert self._weights is not None  # noqa: S101 - checked by the caller
        offset = self._weights.tell()
        offset += -offset % _ALIGNMENT
        self._weights.seek(offset)
        self._weights.write(value.data)
        tensor = TensorProto(
            name=name,
            dims=value.shape,
            data_type=helper.np_dtype_to_tensor_dtype(value.dtype),
            data_location=TensorProto.EXTERNAL,
        )
        place = {"location": self._weights_name, "offset": offset, "length": value.nbytes}
        for key, entry in place.items():
            tensor.external_data.add(key=key, value=str(entry))
        return tensor


def _inline(name: str, value: NDArray[Any]) -> TensorProto:
    return numpy_helper.from_array(value, name)
