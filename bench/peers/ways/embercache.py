"""Embercache's Python client and a sidecar on a Unix socket."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embercache import Client

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PACKAGE = "embercache-sidecar"
_TIMEOUT_SECONDS = 60


class Opened:
    """A client, shared by all threads."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._client = Client(settings["address"], timeout=_TIMEOUT_SECONDS)

    def embed(self, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """The vectors."""
        vectors: Sequence[Sequence[float]] = self._client.embed(texts).vectors
        return vectors

    def computed(self) -> int:
        """Texts that the sidecar's model has computed."""
        return sum(model.computed for model in self._client.stats().models)
