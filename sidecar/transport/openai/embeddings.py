"""``/v1/embeddings``."""

from __future__ import annotations

import asyncio
import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from embercache.v1 import embed_pb2

from sidecar.transport.openai.answers import cache_headers, dump, respond
from sidecar.transport.openai.errors import bad_field, item_error, too_large
from sidecar.transport.openai.fields import items, text
from sidecar.transport.openai.options import EXTENSION, cache_options

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from sidecar.transport.openai.fields import Fields
    from sidecar.transport.openai.methods import Methods
    from sidecar.transport.openai.models import Models

_INPUT_TYPES = {
    "query": embed_pb2.INPUT_TYPE_QUERY,
    "document": embed_pb2.INPUT_TYPE_DOCUMENT,
}
_IGNORED = frozenset({"user"})
_ELEMENTS_AT_ONCE = 16_384


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and what of it is for the front to do."""

    request: embed_pb2.EmbedRequest
    as_base64: bool
    dimensions: int | None


class Embeddings:
    """Answers with vectors of EmbedService."""

    def __init__(self, methods: Methods, models: Models, max_bytes: int, max_inputs: int) -> None:
        self._methods = methods
        self._models = models
        self._max_bytes = max_bytes
        self._max_inputs = max_inputs

    async def answer(self, fields: Fields, _request: web.Request) -> web.Response:
        """``POST /v1/embeddings``. Raises `ApiError`, and what the service raises."""
        asked = read(fields, self._max_inputs)
        raw = asked.request.SerializeToString(deterministic=True)
        if len(raw) > self._max_bytes:
            raise too_large(self._max_bytes)
        data = self._methods.stored_embed(raw)
        if data is None or asked.dimensions is not None:
            await self._check_model(asked)
        if data is None:
            data = await self._methods.embed(raw)
        return await _write(embed_pb2.EmbedResponse.FromString(data), asked.as_base64)

    async def _check_model(self, asked: Asked) -> None:
        model = await self._models.embedder(asked.request.model)
        if asked.dimensions not in (None, model.dimensions):
            raise bad_field(
                "dimensions",
                f"the vectors of this model have {model.dimensions}, and are not shortened here",
            )


def read(fields: Fields, max_inputs: int) -> Asked:
    """The request in terms of the services. Raises `ApiError`."""
    extension = fields.fields(EXTENSION)
    input_type = extension.text("input_type")
    if input_type not in (None, *_INPUT_TYPES):
        raise bad_field(extension.path("input_type"), f"give one of {', '.join(_INPUT_TYPES)}")
    request = embed_pb2.EmbedRequest(
        model=fields.required_text("model"),
        inputs=[embed_pb2.Input(text=entry) for entry in _texts(fields.take("input"), max_inputs)],
        namespace=extension.text("namespace") or "",
        input_type=_INPUT_TYPES.get(input_type or "", embed_pb2.INPUT_TYPE_UNSPECIFIED),
        cache=cache_options(extension),
    )
    encoding = fields.text("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise bad_field("encoding_format", "give 'float' or 'base64'")
    dimensions = fields.integer("dimensions", 1, 2**31)
    extension.finish()
    fields.finish(_IGNORED)
    return Asked(request, encoding == "base64", dimensions)


def _texts(value: object, most: int) -> list[str]:
    if isinstance(value, str):
        return [text(value, "input")]
    if not isinstance(value, list) or not value:
        raise bad_field("input", "give a string, or a list of at least one")
    if any(isinstance(entry, int | list) for entry in value):
        raise bad_field(
            "input",
            "tokens are not taken, since they are of another model's tokenizer: send texts (in"
            " LangChain, OpenAIEmbeddings(check_embedding_ctx_length=False))",
        )
    return [text(entry, f"input[{i}]") for i, entry in enumerate(items(value, "input", most))]


async def _write(response: embed_pb2.EmbedResponse, as_base64: bool) -> web.Response:
    for item in response.embeddings:
        if item.HasField("error"):
            raise item_error(item.error.code, item.error.message)
    tokens = sum(item.tokens for item in response.embeddings)
    rest = {
        "object": "list",
        "model": response.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    rows = await _rows(response, _base64 if as_base64 else _floats)
    body = b'{"data":[' + b",".join(rows) + b"]," + dump(rest)[1:]
    return respond(body, headers=cache_headers(response.embeddings))


async def _rows(
    response: embed_pb2.EmbedResponse, vector: Callable[[bytes], str | list[float]]
) -> list[bytes]:
    rows = []
    # Writing numbers takes long: a large batch lets other calls come in between.
    pause = 1 + _ELEMENTS_AT_ONCE // max(1, response.dimensions)
    for i, item in enumerate(response.embeddings):
        rows.append(dump({"object": "embedding", "index": i, "embedding": vector(item.vector)}))
        if not (i + 1) % pause:
            await asyncio.sleep(0)
    return rows


def _base64(vector: bytes) -> str:
    return base64.b64encode(vector).decode()


def _floats(vector: bytes) -> list[float]:
    floats: list[float] = np.frombuffer(vector, "<f4").tolist()
    return floats
