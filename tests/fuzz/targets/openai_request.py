"""Bodies of requests to the OpenAI-compatible API, as each of its endpoints reads them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sidecar.transport.openai.embeddings import read as read_embeddings
from sidecar.transport.openai.errors import ApiError
from sidecar.transport.openai.fields import read_object
from sidecar.transport.openai.prompts import read_chat, read_completion

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (ApiError,)
IS_JSON = True
_EXTENSION = {
    "namespace": "shop",
    "mode": "refresh",
    "ttl": 60,
    "tags": ["a"],
    "input_type": "query",
}
_GENERATION = {"namespace": "shop", "ttl": 0.5, "semantic": 0.9, "store_sampled": True}


def seeds() -> Iterator[bytes]:
    options = {"model": "m", "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["\n"], "n": 1}
    chat = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    for body in (
        {"model": "minilm", "input": ["a", "b"], "encoding_format": "base64", "dimensions": 384},
        {"model": "minilm", "input": "a", "embercache": _EXTENSION},
        {**options, "prompt": ["a", "b"], "max_tokens": 5, "embercache": _GENERATION},
        {**options, "messages": chat, "stream": True, "stream_options": {"include_usage": True}},
        {**options, "messages": [{"role": "assistant", "tool_calls": []}], "logit_bias": {}},
    ):
        yield json.dumps(body).encode()


def run(data: bytes) -> None:
    taken = 0
    error: ApiError | None = None
    for read in (lambda fields: read_embeddings(fields, 100), read_chat, read_completion):
        try:
            read(read_object(data))
            taken += 1
        except ApiError as raised:
            error = raised
            raised.response()
    if error is not None and not taken:
        raise error
