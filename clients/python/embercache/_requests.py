"""Builds what is sent: pure functions from arguments to protobuf messages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from google.protobuf.duration_pb2 import Duration

from embercache.errors import InvalidArgumentError
from embercache.types import Entity
from embercache.v1 import cache_pb2, common_pb2, embed_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from embercache.types import (
        CacheMode,
        EmbedInput,
        Encoding,
        FlushableTier,
        InputType,
        Truncation,
    )

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")
_Inputs = TypeVar("_Inputs")

# What one message carries at most. Far below the sidecar's limits, so that an answer of large
# vectors fits too, and as fast as larger ones.
MAX_BATCH_ITEMS = 1024
MAX_BATCH_BYTES = 8 << 20

_INPUT_TYPES: Mapping[InputType | None, embed_pb2.InputType.ValueType] = {
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
_MODES: Mapping[CacheMode, common_pb2.CacheMode.ValueType] = {
    "default": common_pb2.CACHE_MODE_DEFAULT,
    "refresh": common_pb2.CACHE_MODE_REFRESH,
    "bypass": common_pb2.CACHE_MODE_BYPASS,
    "no_store": common_pb2.CACHE_MODE_NO_STORE,
    "only_if_cached": common_pb2.CACHE_MODE_ONLY_IF_CACHED,
}
_FLUSHABLE: Mapping[FlushableTier, common_pb2.Tier.ValueType] = {
    "hot": common_pb2.TIER_HOT,
    "disk": common_pb2.TIER_DISK,
}
_DTYPES: Mapping[str, embed_pb2.DType.ValueType] = {
    "float32": embed_pb2.DTYPE_FLOAT32,
    "float16": embed_pb2.DTYPE_FLOAT16,
    "int8": embed_pb2.DTYPE_INT8,
    "uint8": embed_pb2.DTYPE_UINT8,
    "int32": embed_pb2.DTYPE_INT32,
    "int64": embed_pb2.DTYPE_INT64,
}


@dataclass(slots=True)
class Batch:
    """Inputs that travel together, and the request that asks for them."""

    inputs: list[EmbedInput]
    request: embed_pb2.EmbedRequest


class Batcher:
    """Cuts a run of inputs into batches of at most so many items and `MAX_BATCH_BYTES`.

    An input larger than that travels alone. Every request has the template's options.
    """

    def __init__(self, template: embed_pb2.EmbedRequest, max_items: int) -> None:
        if not 1 <= max_items <= MAX_BATCH_ITEMS:
            raise InvalidArgumentError(
                f"batch_size is {max_items}; it must be 1 to {MAX_BATCH_ITEMS}"
            )
        self._template = template
        self._max_items = max_items
        self._seen = 0
        self._start()

    def add(self, item: EmbedInput) -> Batch | None:
        """Takes one input; returns the batch that it ended, if it did.

        Raises `TypeError` or `InvalidArgumentError` if it is no input.
        """
        message = self._request.inputs.add()
        _fill(message, item, self._seen)
        size = message.ByteSize()
        ended = None
        if self._bytes + size > MAX_BATCH_BYTES and self._inputs:
            del self._request.inputs[-1]
            ended = self.rest()
            _fill(self._request.inputs.add(), item, self._seen)
        self._inputs.append(item)
        self._bytes += size
        self._seen += 1
        # Never both: after one was ended, the next has one item, and room for two or more.
        return self.rest() if len(self._inputs) == self._max_items else ended

    def rest(self) -> Batch | None:
        """The batch that is under way, if it is not empty."""
        if not self._inputs:
            return None
        batch = Batch(self._inputs, self._request)
        self._start()
        return batch

    def _start(self) -> None:
        self._inputs: list[EmbedInput] = []
        self._request = embed_pb2.EmbedRequest()
        self._request.CopyFrom(self._template)
        self._bytes = 0


def batches(inputs: Iterable[EmbedInput], batcher: Batcher) -> Iterator[Batch]:
    """All the inputs, in their order, cut into batches as they are read."""
    for item in inputs:
        if batch := batcher.add(item):
            yield batch
    if batch := batcher.rest():
        yield batch


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
        input_type=_choose("input_type", input_type, _INPUT_TYPES),
        encoding=_choose("encoding", encoding, _ENCODINGS),
        truncation=_choose("truncation", truncation, _TRUNCATIONS),
    )
    if mode != "default":
        request.cache.mode = _choose("mode", mode, _MODES)
    if ttl is not None:
        request.cache.ttl.CopyFrom(_duration(ttl))
    if tags:
        request.cache.tags.extend(_tags(tags))
    return request


def only(request: embed_pb2.EmbedRequest, places: Iterable[int]) -> embed_pb2.EmbedRequest:
    """The same request for the inputs at these places alone."""
    part = embed_pb2.EmbedRequest()
    part.CopyFrom(request)
    del part.inputs[:]
    part.inputs.extend(request.inputs[place] for place in places)
    return part


def embed_requests(
    inputs: Sequence[EmbedInput], template: embed_pb2.EmbedRequest
) -> list[embed_pb2.EmbedRequest]:
    """The requests that ask for all the inputs: one, unless they are many or large."""
    if not inputs:
        raise InvalidArgumentError("there are no inputs; give at least one")
    return [batch.request for batch in batches(inputs, Batcher(template, MAX_BATCH_ITEMS))]


def many(inputs: _Inputs) -> _Inputs:
    """The inputs themselves. Raises `TypeError` for one text, which would be read as letters."""
    if isinstance(inputs, str | Entity):
        raise TypeError("inputs is a single text; put it into a list: [text]")
    return inputs


def invalidate_request(
    *,
    namespace: str,
    tags: Sequence[str] | None,
    inputs: Iterable[EmbedInput] | None,
    model: str,
    input_type: InputType | None,
    whole_namespace: bool,
) -> cache_pb2.InvalidateRequest:
    """Raises `InvalidArgumentError` unless exactly one kind of target is given."""
    by_tags = tags is not None and inputs is None
    if by_tags + (inputs is not None) + whole_namespace != 1:
        raise InvalidArgumentError("give one of tags, inputs and whole_namespace=True")
    if inputs is None and (model or input_type):
        raise InvalidArgumentError("model and input_type only go with inputs")
    request = cache_pb2.InvalidateRequest(namespace=namespace)
    if inputs is None and tags is not None:
        request.tags.tags.extend(_tags(tags))
    elif inputs is not None:
        request.inputs.tags.extend(_tags(tags or ()))
        for index, item in enumerate(many(inputs)):
            _fill(request.inputs.inputs.add(), item, index)
        request.inputs.model = model
        request.inputs.input_type = _choose("input_type", input_type, _INPUT_TYPES)
    else:
        request.whole_namespace.SetInParent()
    return request


def flush_request(tiers: Sequence[FlushableTier]) -> cache_pb2.FlushRequest:
    """Empty for all tiers that can be flushed."""
    return cache_pb2.FlushRequest(tiers=[_choose("tiers", tier, _FLUSHABLE) for tier in tiers])


def _fill(message: embed_pb2.Input, item: EmbedInput, index: int) -> None:
    try:
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
    except UnicodeEncodeError:
        # Not as its cause: it quotes the text.
        raise InvalidArgumentError(
            "the text has a lone surrogate, which is no Unicode character", index=index
        ) from None


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


def _tags(tags: Sequence[str]) -> Sequence[str]:
    if isinstance(tags, str):
        raise TypeError("tags is a single str; put it into a list: [tag]")
    return tags


def _duration(ttl: float | timedelta) -> Duration:
    seconds = ttl.total_seconds() if isinstance(ttl, timedelta) else ttl
    if not 0 < seconds < float("inf"):
        raise InvalidArgumentError(f"ttl is {ttl}; it must be a positive number of seconds")
    whole = int(seconds)
    return Duration(seconds=whole, nanos=int((seconds - whole) * 1e9))


def _choose(name: str, given: _Key, values: Mapping[_Key, _Value]) -> _Value:
    try:
        return values[given]
    except KeyError:
        known = ", ".join(str(key) for key in values)
        raise InvalidArgumentError(f"{name} is {given!r}; it must be one of {known}") from None
