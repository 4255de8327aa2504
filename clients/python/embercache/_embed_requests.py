"""Builds the requests of ``embed``: pure functions from arguments to protobuf messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from embercache._batches import Bulk
from embercache._fields import choose, fill_cache_options
from embercache.errors import InvalidArgumentError
from embercache.types import Entity
from embercache.v1 import embed_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from typing import TypeAlias

    from numpy.typing import NDArray

    from embercache._batches import Batch, Batcher
    from embercache.types import CacheMode, EmbedInput, Encoding, InputType, Truncation

    EmbedBatch: TypeAlias = Batch[EmbedInput, embed_pb2.EmbedRequest]
    EmbedBatcher: TypeAlias = Batcher[EmbedInput, embed_pb2.EmbedRequest]

_Inputs = TypeVar("_Inputs")

INPUT_TYPES: Mapping[InputType | None, embed_pb2.InputType.ValueType] = {
    None: embed_pb2.INPUT_TYPE_UNSPECIFIED,
    "query": embed_pb2.INPUT_TYPE_QUERY,
    "document": embed_pb2.INPUT_TYPE_DOCUMENT,
}
_ENCODINGS: Mapping[Encoding, embed_pb2.Encoding.ValueType] = {
    "float32": embed_pb2.ENCODING_FLOAT32,
    "float16": embed_pb2.ENCODING_FLOAT16,
    "int8": embed_pb2.ENCODING_INT8,
}
_TRUNCATIONS: Mapping[Truncation, embed_pb2.Truncation.ValueType] = {
    "end": embed_pb2.TRUNCATION_END,
    "error": embed_pb2.TRUNCATION_ERROR,
}
_DTYPES: Mapping[str, embed_pb2.DType.ValueType] = {
    "float32": embed_pb2.DTYPE_FLOAT32,
    "float16": embed_pb2.DTYPE_FLOAT16,
    "int8": embed_pb2.DTYPE_INT8,
    "uint8": embed_pb2.DTYPE_UINT8,
    "int32": embed_pb2.DTYPE_INT32,
    "int64": embed_pb2.DTYPE_INT64,
}


def options(
    *,
    model: str = "",
    model_version: str = "",
    namespace: str = "",
    input_type: InputType | None = None,
    encoding: Encoding = "float32",
    truncation: Truncation = "end",
    mode: CacheMode = "default",
    ttl: float | timedelta | None = None,
    tags: Sequence[str] = (),
) -> embed_pb2.EmbedRequest:
    """A request that has every option of `EmbedOptions` and no inputs yet."""
    request = embed_pb2.EmbedRequest(
        model=model,
        model_version=model_version,
        namespace=namespace,
        input_type=choose("input_type", input_type, INPUT_TYPES),
        encoding=choose("encoding", encoding, _ENCODINGS),
        truncation=choose("truncation", truncation, _TRUNCATIONS),
    )
    fill_cache_options(request.cache, mode, ttl, tags)
    return request


def many(inputs: _Inputs) -> _Inputs:
    """The inputs themselves. Raises `TypeError` for one text, which would be read as letters."""
    if isinstance(inputs, str | Entity):
        raise TypeError("inputs is a single text; put it into a list: [text]")
    return inputs


def fill_input(message: embed_pb2.Input, item: EmbedInput, index: int) -> None:
    """Raises `TypeError` or `InvalidArgumentError` if the item is no input."""
    if isinstance(item, str):
        message.text = item
    elif isinstance(item, Entity):
        message.entity.SetInParent()
        message.entity.id = item.id
        message.entity.chunk_id = item.chunk_id
        message.entity.text = item.text
    elif isinstance(item, np.ndarray):
        _fill_tensor(message.tensor, item, index)
    else:
        raise TypeError(
            f"input {index} is a {type(item).__name__}; give a str, an Entity or a numpy array"
        )


def put_input(request: embed_pb2.EmbedRequest, item: EmbedInput, index: int) -> tuple[int, int]:
    """Adds an input; returns 1 and its bytes."""
    message = request.inputs.add()
    fill_input(message, item, index)
    return 1, message.ByteSize()


EMBED: Bulk[EmbedInput, embed_pb2.EmbedRequest, embed_pb2.EmbedResponse, embed_pb2.Embedding] = (
    Bulk(
        asked=lambda request: request.inputs,
        put=put_input,
        answered=lambda response: response.embeddings,
    )
)


def _fill_tensor(message: embed_pb2.Tensor, array: NDArray[np.generic], index: int) -> None:
    dtype = _DTYPES.get(array.dtype.name)
    if dtype is None:
        raise InvalidArgumentError(
            f"a tensor of {array.dtype.name} cannot be sent; convert it to one of "
            f"{', '.join(_DTYPES)}",
            index=index,
        )
    message.dtype = dtype
    message.shape.extend(array.shape)
    message.data = array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
