"""LiteLLM's proxy with its Redis cache, asked with OpenAI's own client."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING

from openai import OpenAI

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "litellm"


class Opened:
    """A client of the proxy."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._count = settings["computed"]
        self._model = settings["model"]
        self._client = OpenAI(base_url=settings["url"], api_key=settings["key"], max_retries=0)

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors."""
        answer = self._client.embeddings.create(
            model=self._model, input=list(texts), encoding_format="float"
        )
        return [each.embedding for each in answer.data]

    def computed(self) -> int:
        """Texts that the model server behind it has computed."""
        with urllib.request.urlopen(self._count) as answer:  # noqa: S310 - ours
            return int(json.load(answer))
