"""Answers of OpenAI-compatible services: vectors, and texts as a stream of events."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

import numpy as np

from sidecar.models.openai_embeddings import read_vectors, share_tokens
from sidecar.models.openai_stream import CompletionReader
from sidecar.models.types import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator

ALLOWED = (ModelError,)
IS_JSON = True


def seeds() -> Iterator[bytes]:
    rows = [{"index": i, "embedding": [0.5, -1, 1e38]} for i in (1, 0)]
    yield json.dumps({"data": rows, "usage": {"prompt_tokens": 3, "total_tokens": 3}}).encode()
    packed = [{"index": 0, "embedding": "AACAPwAAAAA="}, {"index": 1, "embedding": "AACAPwAAgD8="}]
    yield json.dumps({"data": packed}).encode()
    texts = [{"text": "a \ud83d"}, {"delta": {"content": "\ude00 b"}, "finish_reason": "stop"}]
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    yield json.dumps([{"choices": [text], "usage": usage} for text in texts]).encode()


def run(data: bytes) -> None:
    try:
        answer = json.loads(data)
    except (ValueError, RecursionError):  # what the client of HTTP makes of it
        raise ModelError("no JSON") from None
    for count, texts in ((2, ["a", "bc"]), (1, ["a"])):
        tokens = share_tokens(answer, texts)
        assert len(tokens) == count
        assert min(tokens) >= 0
        with contextlib.suppress(ModelError):
            vectors = read_vectors(answer, count)
            assert len(vectors) == count
            for vector in vectors:
                assert isinstance(vector, ModelError) or np.isfinite(vector).all()
    reader = CompletionReader(16)
    for event in answer if isinstance(answer, list) else [answer]:
        reader.read(event).encode()
    reader.rest().encode()
    reader.finish_reason()
