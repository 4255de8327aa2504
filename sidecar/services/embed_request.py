"""From an EmbedRequest to what the cache and the model need, and all that can be wrong with it."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
from embercache.v1 import embed_pb2

from sidecar.cache.codec import Codec
from sidecar.cache.keys import digest
from sidecar.services.errors import CallError, invalid
from sidecar.services.requests import MAX_ID_BYTES, cache_choices, decode, enum_value, namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.cache.keys import Digests
    from sidecar.config import ServerSettings
    from sidecar.models.generation import GeneratorInfo
    from sidecar.models.router import ModelRouter
    from sidecar.models.types import Embedder, ModelInfo, ModelInput, RerankerInfo
    from sidecar.services.requests import CacheChoices

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
    cache: CacheChoices

    @property
    def is_single_query(self) -> bool:
        """Whether this is one text that is no document: what may become a popular query."""
        item = self.items[0]
        return len(self.items) == 1 and isinstance(item, Item) and not item.is_document


class RequestReader:
    """Checks requests against the limits and the models of this sidecar.

    ``digests`` are what tags are known by.
    """

    def __init__(
        self,
        models: ModelRouter,
        limits: ServerSettings,
        normalise: Sequence[str],
        default_namespace: str,
        digests: Digests,
    ) -> None:
        self.digests = digests
        self._models = models
        self._limits = limits
        self._normalise = normaliser(normalise)
        self._default_namespace = default_namespace

    def decode(self, raw: bytes) -> embed_pb2.EmbedRequest:
        """The message in the bytes. Raises `CallError`."""
        self.check_size(raw)
        return decode(embed_pb2.EmbedRequest, raw)

    def namespace(self, name: str) -> str:
        """The namespace of that name, or the default for an empty one. Raises `CallError`."""
        return namespace(name, self._default_namespace)

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
        check_version(info, request.model_version)
        input_type = enum_value(_INPUT_TYPES, request.input_type, "input_type")
        prompt = info.prompts.get(input_type, "")
        return ParsedRequest(
            embedder=embedder,
            info=info,
            namespace=self.namespace(request.namespace),
            items=[self.item(entry, prompt, input_type) for entry in request.inputs],
            encoding=enum_value(_ENCODINGS, request.encoding, "encoding"),
            fail_truncated=enum_value(_TRUNCATIONS, request.truncation, "truncation"),
            cache=cache_choices(self.digests, request.cache),
        )

    def model(self, name: str) -> Embedder:
        """The model of that name, or the first for an empty one. Raises `CallError`."""
        embedder = self._models.resolve(name)
        if embedder is None:
            raise CallError(
                grpc.StatusCode.NOT_FOUND,
                f"no such model here: choose one of {', '.join(self._models.names())}, or add it to"
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
                    return self.text(entry.text, prompt, input_type)
                case "entity":
                    return self._entity(entry.entity, prompt)
                case "tensor":
                    return _tensor(entry.tensor)
                case _:
                    raise invalid("the input is empty: set its text, entity or tensor")
        except CallError as error:
            return error

    def text(self, text: str, prompt: str, input_type: str) -> Item:
        """A text as an input. Raises `CallError` if it is too long."""
        source = self._source(text, prompt)
        parts = (b"text", prompt.encode(), source.encode())
        return Item(parts, b"", source, is_document=input_type == "document")

    def _entity(self, entity: embed_pb2.Entity, prompt: str) -> Item:
        name, chunk = entity.id.encode(), entity.chunk_id.encode()
        if not 1 <= len(name) <= MAX_ID_BYTES or len(chunk) > MAX_ID_BYTES:
            raise invalid(f"an entity needs an id of 1 to {MAX_ID_BYTES} bytes, chunk_id no more")
        source = self._source(entity.text, prompt)
        parts = (b"entity", prompt.encode(), name, chunk)
        return Item(parts, digest(b"text", source.encode()), source, is_document=True)

    def check_text(self, text: str) -> None:
        """Raises `CallError` for a text that is longer than allowed."""
        # A character is at least a byte, so most texts need not be encoded to be measured.
        limit = self._limits.max_text_bytes
        if len(text) > limit or (len(text) * 4 > limit and len(text.encode()) > limit):
            raise invalid(
                f"the text is longer than {limit} bytes: split it into chunks, or raise"
                " server.max_text_bytes"
            )

    def _source(self, text: str, prompt: str) -> str:
        self.check_text(text)
        return prompt + (self._normalise(text) if self._normalise else text)


def check_version(info: ModelInfo | RerankerInfo | GeneratorInfo, wanted: str) -> None:
    """Raises `CallError` if a model is not in the version that a call wants."""
    if wanted not in ("", info.version):
        raise CallError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"model {info.name} is loaded in version {info.version}, not in the one asked for:"
            " ask for that one, or leave the version empty",
        )


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
