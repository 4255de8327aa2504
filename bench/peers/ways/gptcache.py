"""GPTCache with exact matches: a map in memory, written to a file when the process ends.

Its Redis storage needs the JSON module and goes with a vector store, which gives similar texts one
answer; for vectors of texts that is never right.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING

from gptcache import Cache
from gptcache.adapter.api import get, put
from gptcache.manager import manager_factory
from gptcache.processor.post import first
from gptcache.processor.pre import get_prompt

from bench.peers.encoder import Encoder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "gptcache"
_ENTRIES = 100_000


class Opened:
    """Keys are texts; a model has no place in them."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._encoder = Encoder(settings["pack"])
        self._cache = Cache()
        self._manager = manager_factory("map", data_dir=settings["folder"], max_size=_ENTRIES)
        self._cache.init(
            pre_embedding_func=get_prompt,
            data_manager=self._manager,
            post_process_messages_func=first,
        )

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors; it has no call for several texts, so the missing are computed here."""
        kept = {text: get(text, cache_obj=self._cache) for text in texts}
        found = {text: json.loads(vector) for text, vector in kept.items() if vector is not None}
        missing = [text for text in kept if text not in found]
        for text, vector in zip(missing, self._encoder(missing) if missing else (), strict=True):
            put(text, json.dumps(vector), cache_obj=self._cache)  # it keeps text, or a list of it
            found[text] = vector
        return [found[text] for text in texts]

    def computed(self) -> int:
        """Texts that the encoder has computed."""
        return self._encoder.computed

    def close(self) -> None:
        """Writes the map to its file."""
        with contextlib.suppress(OSError):
            self._manager.flush()
