"""infinity-emb, an embedding server, asked over HTTP in requests of 32 texts, four at once."""

from __future__ import annotations

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "infinity-emb"
_BATCH, _REQUESTS = 32, 4


class Opened:
    """A client of the server."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._url = f"{settings['url']}/embeddings"
        self._model = settings["model"]
        self._texts = 0

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors."""
        self._texts += len(texts)
        batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        with ThreadPoolExecutor(_REQUESTS) as pool:
            return [vector for vectors in pool.map(self._ask, batches) for vector in vectors]

    def computed(self) -> int:
        """All that were asked for."""
        return self._texts

    def _ask(self, texts: Sequence[str]) -> list[list[float]]:
        body = json.dumps({"model": self._model, "input": list(texts)}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310 - ours
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return [each["embedding"] for each in json.load(answer)["data"]]
