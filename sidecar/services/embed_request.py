"""From an EmbedRequest to what the cache and the model need, and all that can be wrong with it."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
import numpy as np
from embercache.v1 import common_pb2, embed_pb2
from google.protobuf.message import DecodeError, Message

from sidecar.cache.codec import Codec
from sidecar.cache.items import CacheMode
from sidecar.cache.keys import digest
from sidecar.config import NAME_PATTERN
from sidecar.services.errors import CallError, invalid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.config import ServerSettings
    from sidecar.models.types import Embedder, ModelInfo, ModelInput

T = TypeVar("T")
M = TypeVar("M", bound=Message)

DEFAULT_NAMESPACE = "default"
MAX_TAGS = 16
_MAX_TAG_BYTES = 256
_MAX_ID_BYTES = 1024
_MAX_TTL_SECONDS = 10 * 365 * 86400

_NAME = re.compile(NAME_PATTERN)
_MODES: dict[int, CacheMode] = {
    common_pb2.CACHE_MODE_UNSPECIFIED: CacheMode.DEFAULT,
    common_pb2.CACHE_MODE_DEFAULT: CacheMode.DEFAULT,
    common_pb2.CACHE_MODE_REFRESH: CacheMode.REFRESH,
    common_pb2.CACHE_MODE_BYPASS: CacheMode.BYPASS,
    common_pb2.CACHE_MODE_NO_STORE: CacheMode.NO_STORE,
    common_pb2.CACHE_MODE_ONLY_IF_CACHED: CacheMode.ONLY_IF_CACHED,
}
_ENCODINGS: dict[int, Codec] = {
    embed_pb2.ENCODING_UNSPECIFIED: Codec.FLOAT32,
    embed_pb2.ENCODING_FLOAT32: Codec.FLOAT32,
    embed_pb2.ENCODING_FLOAT16: Codec.FLOAT16,
    embed_pb2.ENCODING_INT8: Codec.INT8,
}
_TRUNCATIONS: dict[int, bool] = {
    embed_pb2.TRUNCATION_UNSPECIFIED: False,
    embed_pb2.TRUNCATION_END: False,
    embed_pb2.TRUNCATION_ERROR: True,
}
_INPUT_TYPES: dict[int, str] = {
    embed_pb2.INPUT_TYPE_UNSPECIFIED: "",
    embed_pb2.INPUT_TYPE_QUERY: "query",
    embed_pb2.INPUT_TYPE_DOCUMENT: "document",
}
_DTYPES: dict[int, np.dtype[Any]] = {
    embed_pb2.DTYPE_FLOAT32: np.dtype("<f4"),
    embed_pb2.DTYPE_FLOAT16: np.dtype("<f2"),
    embed_pb2.DTYPE_INT8: np.dtype("<i1"),
    embed_pb2.DTYPE_UINT8: np.dtype("<u1"),
    embed_pb2.DTYPE_INT32: np.dtype("<i4"),
    embed_pb2.DTYPE_INT64: np.dtype("<i8"),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One input: what names it in the cache and what the model gets."""

    key_parts: tuple[bytes, ...]
    content: bytes
    source: ModelInput
    is_document: bool


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request whose options are right. An item that is wrong is in its place as an error."""

    embedder: Embedder
    info: ModelInfo
    namespace: str
    items: list[Item | CallError]
    encoding: Codec
    fail_truncated: bool
    mode: CacheMode
    ttl: float | None
    tags: tuple[bytes, ...]


class RequestReader:
    """Checks requests against the limits and the models of this sidecar."""

    def __init__(
        self,
        models: Mapping[str, Embedder],
        limits: ServerSettings,
        normalise: Sequence[str],
    ) -> None:
        self._models = models
        self._limits = limits
        self._normalise = normaliser(normalise)

    def decode(self, raw: bytes) -> embed_pb2.EmbedRequest:
        """The message in the bytes. Raises `CallError`."""
        self.check_size(raw)
        return decode(embed_pb2.EmbedRequest, raw)

    def check_size(self, raw: bytes) -> None:
        """Raises `CallError` for a message that is larger than allowed."""
        if len(raw) > self._limits.max_message_bytes:
            raise CallError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"the request has {len(raw)} bytes, more than the {self._limits.max_message_bytes}"
                " allowed: split the batch, or raise server.max_message_bytes",
            )

    def read(self, request: embed_pb2.EmbedRequest) -> ParsedRequest:
        """The request in our terms. Raises `CallError` if the call as a whole is wrong."""
        count = len(request.inputs)
        if count == 0:
            raise invalid("the batch is empty: put at least one input into it")
        if count > self._limits.max_batch_items:
            raise invalid(
                f"the batch has {count} inputs, more than the {self._limits.max_batch_items}"
                " allowed: split it, or use EmbedStream"
            )
        embedder = self.model(request.model)
        info = embedder.info
        if request.model_version not in ("", info.version):
            raise CallError(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"model {info.name} is loaded in version {info.version}, not in the one asked for:"
                " ask for that one, or leave model_version empty",
            )
        input_type = enum_value(_INPUT_TYPES, request.input_type, "input_type")
        prompt = info.prompts.get(input_type, "")
        return ParsedRequest(
            embedder=embedder,
            info=info,
            namespace=namespace(request.namespace),
            items=[self.item(entry, prompt, input_type) for entry in request.inputs],
            encoding=enum_value(_ENCODINGS, request.encoding, "encoding"),
            fail_truncated=enum_value(_TRUNCATIONS, request.truncation, "truncation"),
            mode=enum_value(_MODES, request.cache.mode, "cache.mode"),
            ttl=_ttl(request.cache),
            tags=tag_digests(request.cache.tags, MAX_TAGS),
        )

    def model(self, name: str) -> Embedder:
        """The model of that name, or the first for an empty one. Raises `CallError`."""
        if not name:
            return next(iter(self._models.values()))
        embedder = self._models.get(name)
        if embedder is None:
            raise CallError(
                grpc.StatusCode.NOT_FOUND,
                f"no such model here: choose one of {', '.join(self._models)}, or add it to"
                " model.packs",
            )
        return embedder

    def input_prompt(self, info: ModelInfo, input_type: int) -> tuple[str, str]:
        """The name of an input type and the prompt of the model for it. Raises `CallError`."""
        name = enum_value(_INPUT_TYPES, input_type, "input_type")
        return name, info.prompts.get(name, "")

    def item(self, entry: embed_pb2.Input, prompt: str, input_type: str) -> Item | CallError:
        """One input, or what is wrong with it."""
        try:
            match entry.WhichOneof("input"):
                case "text":
                    return self._text(entry.text, prompt, input_type)
                case "entity":
                    return self._entity(entry.entity, prompt)
                case "tensor":
                    return _tensor(entry.tensor)
                case _:
                    raise invalid("the input is empty: set its text, entity or tensor")
        except CallError as error:
            return error

    def _text(self, text: str, prompt: str, input_type: str) -> Item:
        source = self._source(text, prompt)
        parts = (b"text", prompt.encode(), source.encode())
        return Item(parts, b"", source, is_document=input_type == "document")

    def _entity(self, entity: embed_pb2.Entity, prompt: str) -> Item:
        name, chunk = entity.id.encode(), entity.chunk_id.encode()
        if not 1 <= len(name) <= _MAX_ID_BYTES or len(chunk) > _MAX_ID_BYTES:
            raise invalid(f"an entity needs an id of 1 to {_MAX_ID_BYTES} bytes, chunk_id no more")
        source = self._source(entity.text, prompt)
        parts = (b"entity", prompt.encode(), name, chunk)
        return Item(parts, digest(b"text", source.encode()), source, is_document=True)

    def _source(self, text: str, prompt: str) -> str:
        # A character is at least a byte, so most texts need not be encoded to be measured.
        limit = self._limits.max_text_bytes
        if len(text) > limit or (len(text) * 4 > limit and len(text.encode()) > limit):
            raise invalid(
                f"the text is longer than {limit} bytes: split it into chunks, or raise"
                " server.max_text_bytes"
            )
        return prompt + (self._normalise(text) if self._normalise else text)


def decode(message_type: type[M], raw: bytes) -> M:
    """A message of that type from bytes. Raises `CallError`."""
    try:
        return message_type.FromString(raw)
    except DecodeError:
        name = message_type.DESCRIPTOR.full_name
        raise invalid(
            f"the bytes are not a {name}: use the published protos, and UTF-8 in every string"
        ) from None


def namespace(name: str) -> str:
    """The namespace of that name, or the default for an empty one. Raises `CallError`."""
    if name and not _NAME.fullmatch(name):
        raise invalid("a namespace has 1 to 64 letters, digits, '.', '_' or '-'")
    return name or DEFAULT_NAMESPACE


def tag_digests(tags: Sequence[str], limit: int) -> tuple[bytes, ...]:
    """The digest of each tag, without repetition. Raises `CallError`."""
    if len(tags) > limit:
        raise invalid(f"there are {len(tags)} tags, more than the {limit} allowed in one call")
    encoded = [tag.encode() for tag in tags]
    if not all(1 <= len(tag) <= _MAX_TAG_BYTES for tag in encoded):
        raise invalid(f"a tag has 1 to {_MAX_TAG_BYTES} bytes")
    return tuple(dict.fromkeys(digest(b"tag", tag) for tag in encoded))


def enum_value(meanings: Mapping[int, T], number: int, field: str) -> T:
    """What an enum's number means. Raises `CallError` for one that is not known here."""
    if number not in meanings:
        raise invalid(f"{field} has the unknown value {number}: this sidecar may be too old for it")
    return meanings[number]


def normaliser(steps: Sequence[str]) -> Callable[[str], str] | None:
    """The opt-in changes to texts, in the order nfc, strip, lower; None for no change."""
    functions: dict[str, Callable[[str], str]] = {
        "nfc": lambda text: unicodedata.normalize("NFC", text),
        "strip": str.strip,
        "lower": str.lower,
    }
    chosen = [function for name, function in functions.items() if name in steps]
    if not chosen:
        return None

    def normalise(text: str) -> str:
        for function in chosen:
            text = function(text)
        return text

    return normalise


def _ttl(options: common_pb2.CacheOptions) -> float | None:
    """The lifetime asked for in seconds, None if the default is to apply."""
    if not options.HasField("ttl"):
        return None
    seconds = options.ttl.seconds + options.ttl.nanos / 1e9
    if not 0 < seconds <= _MAX_TTL_SECONDS:
        raise invalid(
            "cache.ttl must be positive and at most ten years: leave it out for the default, or"
            " use CACHE_MODE_NO_STORE to store nothing"
        )
    return seconds


def _tensor(tensor: embed_pb2.Tensor) -> Item:
    dtype = enum_value(_DTYPES, tensor.dtype, "tensor.dtype")
    shape = tuple(tensor.shape)
    if not all(0 < size < 2**31 for size in shape) or len(shape) > 8:
        raise invalid("a tensor has at most 8 dimensions, all of them positive")
    elements = 1
    for size in shape:
        elements *= size
    if elements * dtype.itemsize != len(tensor.data):
        raise invalid(
            f"the tensor's data has {len(tensor.data)} bytes; its shape and dtype make"
            f" {elements * dtype.itemsize}"
        )
    parts = (b"tensor", dtype.str.encode(), repr(shape).encode(), tensor.data)
    source = np.frombuffer(tensor.data, dtype=dtype).reshape(shape)
    return Item(parts, b"", source, is_document=True)
